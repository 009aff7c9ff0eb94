package torchfile

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"strconv"
)

// Limits of one pickle. A shard with 100,000 tensors takes about 11 MB and 4
// million objects.
const (
	maxPickle  = 100 << 20 // bytes
	maxObjects = 1 << 23
	maxLine    = 1 << 10 // of the opcodes that read a line
)

// What a pickle can hold, beside nil, bool, int64, float64 and string.
type (
	value  any
	tuple  []value
	long   []byte // an integer of more than 8 bytes, little-endian two's complement
	opaque string // something of no interest, named for messages
	global struct{ module, name string }
	list   struct{ items []value }
	dict   struct{ keys, values []value } // in order; a later key hides an equal one
)

// unpickler is the stack machine of Python's pickle.
type unpickler struct {
	r       *bufio.Reader
	read    int64 // bytes so far
	objects int
	stack   []value
	marks   []int // stack heights
	memo    map[uint32]value
	// persistent resolves a persistent id.
	persistent func(id value) (value, error)
}

// unpickle reads one pickle and says how many bytes it took.
func unpickle(r io.Reader, persistent func(value) (value, error)) (value, int64, error) {
	u := &unpickler{r: bufio.NewReader(r), memo: map[uint32]value{}, persistent: persistent}
	for {
		op, err := u.byte()
		if err != nil {
			return nil, u.read, err
		}
		if op == '.' {
			v, err := u.pop()
			return v, u.read, err
		}
		if err := u.step(op); err != nil {
			return nil, u.read, err
		}
	}
}

// step carries out one opcode. The names are those of Python's pickletools.
func (u *unpickler) step(op byte) error {
	switch op {
	case '\x80': // PROTO
		v, err := u.uint(1)
		if err == nil && (v < 2 || v > 5) {
			err = invalidf("pickle protocol %d, want 2 to 5", v)
		}
		return err
	case '\x95': // FRAME
		_, err := u.uint(8)
		return err
	case '(': // MARK
		u.marks = append(u.marks, len(u.stack))
		return u.spend(1)
	case '0': // POP
		_, err := u.pop()
		return err
	case '1': // POP_MARK
		_, err := u.popMark()
		return err
	case 'q', 'r', '\x94', 'h', 'j': // BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET
		return u.remember(op)
	case 'c', '\x93', 'Q', 'R', '\x81', 'b': // GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ BUILD
		return u.objectOp(op)
	case '}', ']', ')', '\x8f', 't', '\x85', '\x86', '\x87', 'l', 'd', '\x91', 'a', 'e', 's', 'u', '\x90':
		return u.container(op)
	}
	return u.scalar(op)
}

// scalar pushes what the opcode spells out.
func (u *unpickler) scalar(op byte) error {
	var n uint64
	var err error
	switch op {
	case 'N': // NONE
		return u.push(nil)
	case '\x88', '\x89': // NEWTRUE NEWFALSE
		return u.push(op == '\x88')
	case 'K', 'M', 'J': // BININT1 BININT2 BININT
		width := map[byte]int{'K': 1, 'M': 2, 'J': 4}[op]
		n, err = u.uint(width)
		v := int64(n)
		if op == 'J' {
			v = int64(int32(n))
		}
		return u.pushIf(v, err)
	case '\x8a', '\x8b': // LONG1 LONG4
		return u.long(op)
	case 'G': // BINFLOAT
		var p []byte
		if p, err = u.bytes(8); err != nil {
			return err
		}
		return u.push(math.Float64frombits(binary.BigEndian.Uint64(p)))
	case 'X', '\x8c', '\x8d': // BINUNICODE SHORT_BINUNICODE BINUNICODE8
		p, err := u.counted(map[byte]int{'X': 4, '\x8c': 1, '\x8d': 8}[op])
		return u.pushIf(string(p), err)
	case 'U', 'T': // SHORT_BINSTRING BINSTRING, Python 2's str
		p, err := u.counted(map[byte]int{'U': 1, 'T': 4}[op])
		return u.pushIf(string(p), err)
	case 'C', 'B', '\x8e': // SHORT_BINBYTES BINBYTES BINBYTES8
		_, err := u.counted(map[byte]int{'C': 1, 'B': 4, '\x8e': 8}[op])
		return u.pushIf(opaque("bytes"), err)
	}
	return invalidf("pickle opcode 0x%02x at byte %d is not read", op, u.read-1)
}

// long reads a LONG1 or LONG4.
func (u *unpickler) long(op byte) error {
	p, err := u.counted(map[byte]int{'\x8a': 1, '\x8b': 4}[op])
	if err != nil {
		return err
	}
	if len(p) > 8 {
		return u.push(long(p))
	}
	var n uint64
	for i, b := range p {
		n |= uint64(b) << (8 * i)
	}
	if len(p) > 0 && len(p) < 8 && p[len(p)-1]&0x80 != 0 {
		n |= ^uint64(0) << (8 * len(p))
	}
	return u.push(int64(n))
}

// remember stores the top of the stack, or pushes what was stored.
func (u *unpickler) remember(op byte) error {
	width := map[byte]int{'q': 1, 'h': 1, 'r': 4, 'j': 4}[op]
	n, err := u.uint(width)
	if err != nil {
		return err
	}
	if op == '\x94' { // MEMOIZE
		n = uint64(len(u.memo))
	}
	if op == 'h' || op == 'j' {
		v, ok := u.memo[uint32(n)]
		if !ok {
			return invalidf("pickle: memo entry %d at byte %d is not there", n, u.read)
		}
		return u.push(v)
	}
	v, err := u.top()
	if err != nil {
		return err
	}
	u.memo[uint32(n)] = v
	return u.spend(1)
}

// container makes and fills tuples, lists, dicts and sets.
func (u *unpickler) container(op byte) error {
	switch op {
	case '}': // EMPTY_DICT
		return u.push(&dict{})
	case ']': // EMPTY_LIST
		return u.push(&list{})
	case ')': // EMPTY_TUPLE
		return u.push(tuple(nil))
	case '\x8f': // EMPTY_SET
		return u.push(opaque("a set"))
	case '\x85', '\x86', '\x87': // TUPLE1 TUPLE2 TUPLE3
		n := int(op-'\x85') + 1
		if len(u.stack)-u.floor() < n {
			return u.underflow()
		}
		items := append(tuple(nil), u.stack[len(u.stack)-n:]...)
		u.stack = u.stack[:len(u.stack)-n]
		return u.push(items)
	case 'a': // APPEND
		v, err := u.pop()
		if err != nil {
			return err
		}
		return u.extend([]value{v})
	case 's': // SETITEM
		v, err := u.pop()
		if err != nil {
			return err
		}
		k, err := u.pop()
		if err != nil {
			return err
		}
		return u.update([]value{k, v})
	}
	items, err := u.popMark()
	if err != nil {
		return err
	}
	switch op {
	case 't': // TUPLE
		return u.push(append(tuple(nil), items...))
	case 'l': // LIST
		return u.push(&list{append([]value(nil), items...)})
	case 'd': // DICT
		if err := u.push(&dict{}); err != nil {
			return err
		}
		return u.update(append([]value(nil), items...))
	case '\x91': // FROZENSET
		return u.push(opaque("a frozenset"))
	case 'e': // APPENDS
		return u.extend(items)
	case 'u': // SETITEMS
		return u.update(items)
	}
	_, err = u.top() // ADDITEMS
	return err
}

// extend appends items to the list on top of the stack.
func (u *unpickler) extend(items []value) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	l, ok := v.(*list)
	if !ok {
		return invalidf("pickle: append to %s at byte %d", kindText(v), u.read)
	}
	l.items = append(l.items, items...)
	return nil
}

// update sets pairs in the dict on top of the stack.
func (u *unpickler) update(pairs []value) error {
	v, err := u.top()
	if err != nil {
		return err
	}
	d, ok := v.(*dict)
	if !ok || len(pairs)%2 != 0 {
		return invalidf("pickle: items set in %s at byte %d", kindText(v), u.read)
	}
	for i := 0; i < len(pairs); i += 2 {
		d.keys = append(d.keys, pairs[i])
		d.values = append(d.values, pairs[i+1])
	}
	return nil
}

// objectOp carries out the opcodes that name globals and call them.
func (u *unpickler) objectOp(op byte) error {
	switch op {
	case 'c': // GLOBAL
		module, err := u.line()
		if err != nil {
			return err
		}
		name, err := u.line()
		if err != nil {
			return err
		}
		return u.global(module, name)
	case 'Q': // BINPERSID
		id, err := u.pop()
		if err != nil {
			return err
		}
		v, err := u.persistent(id)
		return u.pushIf(v, err)
	}
	arg, err := u.pop()
	if err != nil {
		return err
	}
	if op == 'b' { // BUILD sets attributes: none of those read here has one that counts
		_, err := u.top()
		return err
	}
	f, err := u.pop()
	if err != nil {
		return err
	}
	if op == '\x93' { // STACK_GLOBAL
		module, ok1 := f.(string)
		name, ok2 := arg.(string)
		if !ok1 || !ok2 {
			return invalidf("pickle: a global named by %s and %s at byte %d", kindText(f), kindText(arg), u.read)
		}
		return u.global(module, name)
	}
	g, ok1 := f.(global)
	args, ok2 := arg.(tuple)
	if !ok1 || !ok2 {
		return invalidf("pickle: a call of %s with %s at byte %d", kindText(f), kindText(arg), u.read)
	}
	if err := u.spend(len(args)); err != nil {
		return err
	}
	v, err := u.call(g, args)
	return u.pushIf(v, err)
}

func (u *unpickler) global(module, name string) error {
	g, err := findGlobal(module, name)
	return u.pushIf(g, err)
}

func (u *unpickler) push(v value) error {
	u.stack = append(u.stack, v)
	return u.spend(1)
}

func (u *unpickler) pushIf(v value, err error) error {
	if err != nil {
		return err
	}
	return u.push(v)
}

// spend counts objects, so that a small pickle cannot fill the memory.
func (u *unpickler) spend(n int) error {
	u.objects += n
	if u.objects > maxObjects {
		return invalidf("pickle of more than %d objects", maxObjects)
	}
	return nil
}

// floor is the stack height that no opcode may go below.
func (u *unpickler) floor() int {
	if n := len(u.marks); n > 0 {
		return u.marks[n-1]
	}
	return 0
}

func (u *unpickler) underflow() error {
	return invalidf("pickle: stack underflow at byte %d", u.read)
}

func (u *unpickler) top() (value, error) {
	if len(u.stack) <= u.floor() {
		return nil, u.underflow()
	}
	return u.stack[len(u.stack)-1], nil
}

func (u *unpickler) pop() (value, error) {
	v, err := u.top()
	if err == nil {
		u.stack = u.stack[:len(u.stack)-1]
	}
	return v, err
}

// popMark takes everything above the last mark. The result is valid until the
// next push.
func (u *unpickler) popMark() ([]value, error) {
	n := len(u.marks)
	if n == 0 {
		return nil, u.underflow()
	}
	at := u.marks[n-1]
	u.marks = u.marks[:n-1]
	items := u.stack[at:]
	u.stack = u.stack[:at]
	return items, nil
}

func (u *unpickler) byte() (byte, error) {
	b, err := u.r.ReadByte()
	if err != nil {
		return 0, u.readError(err)
	}
	u.read++
	return b, nil
}

// bytes reads n bytes, piece by piece: a length may lie.
func (u *unpickler) bytes(n uint64) ([]byte, error) {
	if n > maxPickle || u.read+int64(n) > maxPickle {
		return nil, invalidf("pickle larger than %d bytes", maxPickle)
	}
	var p []byte
	for uint64(len(p)) < n {
		at := len(p)
		p = append(p, make([]byte, min(n-uint64(at), 1<<16))...)
		if _, err := io.ReadFull(u.r, p[at:]); err != nil {
			return nil, u.readError(err)
		}
	}
	u.read += int64(n)
	return p, nil
}

// uint reads a little-endian number of width bytes.
func (u *unpickler) uint(width int) (uint64, error) {
	var n uint64
	for i := range width {
		b, err := u.byte()
		if err != nil {
			return 0, err
		}
		n |= uint64(b) << (8 * i)
	}
	return n, nil
}

// counted reads bytes that follow their number.
func (u *unpickler) counted(width int) ([]byte, error) {
	n, err := u.uint(width)
	if err != nil {
		return nil, err
	}
	return u.bytes(n)
}

func (u *unpickler) line() (string, error) {
	var p []byte
	for len(p) <= maxLine {
		b, err := u.byte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return string(p), nil
		}
		p = append(p, b)
	}
	return "", invalidf("pickle: a name of more than %d bytes", maxLine)
}

func (u *unpickler) readError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return invalidf("truncated: the pickle ends after %d bytes without its end", u.read)
	}
	return err
}

// kindText names the kind of a value for a message.
func kindText(v value) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64:
		return strconv.FormatInt(v, 10)
	case long:
		return "a long integer"
	case float64:
		return "a float"
	case string:
		return nameText(v)
	case tuple:
		return "a tuple of " + strconv.Itoa(len(v))
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case global:
		return v.String()
	case *storage:
		return "a storage"
	case *tensor:
		return "a tensor"
	case opaque:
		return string(v)
	}
	return "a value"
}
