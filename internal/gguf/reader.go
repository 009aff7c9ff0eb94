package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
)

// Magic are the first bytes of a file.
const Magic = "GGUF"

const (
	version          = 3
	defaultAlignment = 32
	alignmentKey     = "general.alignment"
	// maxAlignment is far above what is used and keeps the sums small.
	maxAlignment = 1 << 30
	// leastTensor is the size of the shortest tensor description: the length
	// of an empty name, the number of dimensions, the type, the offset.
	leastTensor = 8 + 4 + 4 + 8
	leastKV     = 8 + 1 + 4 + 1
)

// ErrFormat is wrapped by every error about a file that is no valid GGUF.
var ErrFormat = errors.New("not a valid GGUF file")

// File is an opened file. It is safe for concurrent use until Close.
type File struct {
	path    string
	r       io.ReaderAt
	close   func() error
	version uint32
	kv      []KV
	keys    map[string]int
	tensors []Tensor
	names   map[string]int
	data    int64 // where the data section begins

	parts []*File          // of a model in several files; see OpenParts
	owner map[string]*File // of those the part with a tensor
}

// Open opens a file and checks its header.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	g, err := Parse(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	g.path, g.close = path, f.Close
	return g, nil
}

// Parse reads the header of a file of the given size.
func Parse(r io.ReaderAt, size int64) (*File, error) {
	f := &File{r: r}
	d := &decoder{&cursor{r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}}
	if err := f.parse(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return f, nil
}

func (f *File) parse(d *decoder) error {
	tensors, keys, err := f.header(d)
	if err != nil {
		return err
	}
	if err := f.readKeys(d, keys); err != nil {
		return err
	}
	align, err := f.alignment()
	if err != nil {
		return err
	}
	if err := f.readTensors(d, tensors); err != nil {
		return err
	}
	f.data = pad(d.c.pos, align)
	// A file without tensors may end where its metadata ends.
	if tensors > 0 && f.data > d.c.size {
		return fmt.Errorf("no data section: the file ends at %d, data begins at %d", d.c.size, f.data)
	}
	var sum int64
	for _, t := range f.tensors {
		if t.Offset != sum {
			return fmt.Errorf("tensor %q: data at offset %d, want %d", t.Name, t.Offset, sum)
		}
		if end := sum + t.Bytes(); end > d.c.size-f.data {
			return fmt.Errorf("tensor %q: data ends at %d of %d bytes", t.Name, end, d.c.size-f.data)
		}
		// Below 2^63: the end is within the file and the padding below 2^30.
		sum = pad(sum+t.Bytes(), align)
	}
	return nil
}

func (f *File) header(d *decoder) (tensors, keys uint64, err error) {
	var magic [4]byte
	if err := d.fill(magic[:]); err != nil {
		return 0, 0, err
	}
	if string(magic[:]) != Magic {
		return 0, 0, fmt.Errorf("begins with %q, want %q", magic, Magic)
	}
	if f.version, err = d.u32(); err != nil {
		return 0, 0, err
	}
	switch {
	case f.version&0xffff == 0 && f.version != 0:
		return 0, 0, fmt.Errorf("version %d, or %d big-endian: big-endian files are not read", f.version, bits.ReverseBytes32(f.version))
	case f.version < 2 || f.version > version:
		return 0, 0, fmt.Errorf("version %d, want 2 or %d", f.version, version)
	}
	if tensors, err = d.u64(); err != nil {
		return 0, 0, err
	}
	if keys, err = d.u64(); err != nil {
		return 0, 0, err
	}
	if tensors > uint64(d.left()/leastTensor) || keys > uint64(d.left()/leastKV) {
		return 0, 0, fmt.Errorf("%d tensors and %d keys in a file of %d bytes", tensors, keys, d.c.size)
	}
	return tensors, keys, nil
}

func (f *File) readKeys(d *decoder, n uint64) error {
	f.keys = make(map[string]int)
	for i := range n {
		key, err := d.string()
		if err != nil {
			return fmt.Errorf("key %d: %w", i, err)
		}
		if key == "" {
			return fmt.Errorf("key %d is empty", i)
		}
		if _, twice := f.keys[key]; twice {
			return fmt.Errorf("key %q is there twice", short(key))
		}
		t, err := d.u32()
		if err != nil {
			return fmt.Errorf("key %q: %w", short(key), err)
		}
		v, err := d.value(t)
		if err != nil {
			return fmt.Errorf("key %q: %w", short(key), err)
		}
		f.keys[key] = len(f.kv)
		f.kv = append(f.kv, KV{key, v})
	}
	return nil
}

func (f *File) alignment() (int64, error) {
	v, ok := f.Value(alignmentKey)
	if !ok {
		return defaultAlignment, nil
	}
	a, ok := v.(uint32)
	if !ok || a > maxAlignment || bits.OnesCount32(a) != 1 {
		if !ok {
			return 0, fmt.Errorf("key %q: a %T, want a uint32", alignmentKey, v)
		}
		return 0, fmt.Errorf("key %q: %d, want a power of two up to 2^30", alignmentKey, a)
	}
	return int64(a), nil
}

func (f *File) readTensors(d *decoder, n uint64) error {
	f.names = make(map[string]int)
	for i := range n {
		t, err := readTensor(d)
		if err == nil {
			err = t.check()
		}
		if err != nil {
			return fmt.Errorf("tensor %d %q: %w", i, short(t.Name), err)
		}
		if _, twice := f.names[t.Name]; twice {
			return fmt.Errorf("tensor %q is there twice", t.Name)
		}
		f.names[t.Name] = len(f.tensors)
		f.tensors = append(f.tensors, t)
	}
	return nil
}

func readTensor(d *decoder) (t Tensor, err error) {
	if t.Name, err = d.string(); err != nil {
		return t, err
	}
	dims, err := d.u32()
	if err != nil {
		return t, err
	}
	if dims > maxDims {
		return t, fmt.Errorf("%d dimensions, want at most %d", dims, maxDims)
	}
	for range dims {
		v, err := d.u64()
		if err != nil {
			return t, err
		}
		if v > math.MaxInt {
			return t, fmt.Errorf("dimension %d overflows", v)
		}
		t.Dims = append(t.Dims, int(v))
	}
	typ, err := d.u32()
	if err != nil {
		return t, err
	}
	t.Type = Type(typ)
	off, err := d.u64()
	if err != nil {
		return t, err
	}
	if off > math.MaxInt64 {
		return t, fmt.Errorf("offset %d overflows", off)
	}
	t.Offset = int64(off)
	return t, nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	return f.close()
}

// KV returns the metadata in file order.
func (f *File) KV() []KV { return f.kv }

// Value returns the value of a key.
func (f *File) Value(key string) (any, bool) {
	i, ok := f.keys[key]
	if !ok {
		return nil, false
	}
	return f.kv[i].Value, true
}

// Tensors returns the tensors in file order.
func (f *File) Tensors() []Tensor { return f.tensors }

// Tensor finds a tensor.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.names[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// ReadAt fills p with the data of a tensor from offset off.
func (f *File) ReadAt(name string, p []byte, off int64) error {
	t, ok := f.Tensor(name)
	if !ok {
		return fmt.Errorf("no tensor %q", short(name))
	}
	if off < 0 || off > t.Bytes() || int64(len(p)) > t.Bytes()-off {
		return fmt.Errorf("tensor %q: bytes %d to %d of %d asked for", name, off, off+int64(len(p)), t.Bytes())
	}
	if part, ok := f.owner[name]; ok {
		return part.ReadAt(name, p, off)
	}
	if n, err := f.r.ReadAt(p, f.data+t.Offset+off); n < len(p) {
		return fmt.Errorf("tensor %q: reading: %w", name, err)
	}
	return nil
}

// decoder reads little-endian values and knows how much is left. It is
// passed by value; the cursor is shared.
type decoder struct{ c *cursor }

type cursor struct {
	r         *bufio.Reader
	pos, size int64
}

func (d decoder) left() int64 { return d.c.size - d.c.pos }

func (d decoder) fill(p []byte) error {
	if int64(len(p)) > d.left() {
		return fmt.Errorf("the file ends at byte %d: %w", d.c.size, io.ErrUnexpectedEOF)
	}
	n, err := io.ReadFull(d.c.r, p)
	d.c.pos += int64(n)
	return err
}

func (d decoder) u8() (byte, error) {
	var b [1]byte
	err := d.fill(b[:])
	return b[0], err
}

func (d decoder) u32() (uint32, error) {
	var b [4]byte
	err := d.fill(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

func (d decoder) u64() (uint64, error) {
	var b [8]byte
	err := d.fill(b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

func (d decoder) string() (string, error) {
	n, err := d.u64()
	if err != nil {
		return "", err
	}
	if n > uint64(d.left()) {
		return "", fmt.Errorf("string of %d bytes, but %d are left in the file", n, d.left())
	}
	b := make([]byte, n)
	if err := d.fill(b); err != nil {
		return "", err
	}
	return string(b), nil
}

func pad(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }

// short keeps long names from a file out of messages.
func short(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// Floats reads a tensor of F32.
func (f *File) Floats(name string) ([]float32, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("no tensor %q", name)
	}
	if t.Type != F32 {
		return nil, fmt.Errorf("tensor %q: type %v, want F32", name, t.Type)
	}
	data := make([]byte, t.Bytes())
	if err := f.ReadAt(name, data, 0); err != nil {
		return nil, err
	}
	v := make([]float32, t.Elements())
	return v, t.Type.Decode(v, data)
}

// DataOffset is where the data that tensors' offsets count from begins.
func (f *File) DataOffset() int64 { return f.data }
