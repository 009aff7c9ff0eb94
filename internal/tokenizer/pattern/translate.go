package pattern

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
)

// translate rewrites a pattern from Oniguruma's Ruby syntax, which the reference
// compiles, to that of regexp2 (.NET). What both read the same is copied; what
// would silently mean something else is rewritten or refused:
//
//   - \w and POSIX brackets go by Oniguruma's definitions, \p{…} by Unicode 16
//   - \h is a hexadecimal digit, (?m) lets the dot match line breaks
//   - x?+, x*+ and x++ are possessive, x{n,m}+ is a repeated group
//   - (?i) lets s match ſ (Unicode case folding)
//   - class intersections && and classes inside classes are refused
func translate(pattern string) (string, error) {
	t := translator{in: []rune(pattern), groups: []group{{}}, atom: -1}
	for t.pos < len(t.in) {
		if err := t.item(); err != nil {
			return "", err
		}
	}
	if len(t.groups) != 1 {
		return "", errors.New("missing )")
	}
	return t.out.String(), nil
}

type translator struct {
	in     []rune
	pos    int
	out    strings.Builder
	groups []group
	// atom is where the last atom begins in out, -1 if a quantifier may not follow.
	atom int
}

type group struct {
	start int  // of its ( in out
	fold  bool // (?i) in force inside
}

func (t *translator) peek(s string) bool {
	for i, r := range []rune(s) {
		if t.pos+i >= len(t.in) || t.in[t.pos+i] != r {
			return false
		}
	}
	return true
}

func (t *translator) top() *group { return &t.groups[len(t.groups)-1] }

func (t *translator) emitAtom(s string) {
	t.atom = t.out.Len()
	t.out.WriteString(s)
}

func (t *translator) item() error {
	switch c := t.in[t.pos]; c {
	case '\\':
		s, zeroWidth, err := t.escape(false)
		if err != nil {
			return err
		}
		t.emitAtom(s)
		if zeroWidth {
			t.atom = -1
		}
	case '[':
		return t.class()
	case '(':
		return t.open()
	case ')':
		if len(t.groups) == 1 {
			return errors.New("unmatched )")
		}
		t.atom = t.top().start
		t.groups = t.groups[:len(t.groups)-1]
		t.out.WriteByte(')')
		t.pos++
	case '*', '+', '?', '{':
		return t.quantifier()
	case '|', '^', '$':
		t.atom = -1
		t.out.WriteRune(c)
		t.pos++
	case 's', 'S':
		s := string(c)
		if t.top().fold {
			s = "[sſ]"
		}
		t.emitAtom(s)
		t.pos++
	default:
		t.emitAtom(string(c))
		t.pos++
	}
	return nil
}

// open copies the head of a group.
func (t *translator) open() error {
	t.groups = append(t.groups, group{start: t.out.Len(), fold: t.top().fold})
	t.atom = -1
	for _, head := range []string{"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"} {
		if t.peek(head) {
			t.out.WriteString(head)
			t.pos += len(head)
			return nil
		}
	}
	if !t.peek("(?") {
		t.out.WriteByte('(')
		t.pos++
		return nil
	}
	if t.peek("(?<") { // named
		t.out.WriteString("(?<")
		t.pos += 3
		return nil
	}
	t.pos += 2
	on, flags := true, [2]string{}
	for ; t.pos < len(t.in); t.pos++ {
		switch c := t.in[t.pos]; c {
		case '-':
			on = false
		case 'i', 'x', 'm':
			if c == 'i' {
				t.top().fold = on
			}
			if c == 'm' {
				c = 's'
			}
			if on {
				flags[0] += string(c)
			} else {
				flags[1] += string(c)
			}
		case ':', ')':
			s := flags[0]
			if flags[1] != "" {
				s += "-" + flags[1]
			}
			t.pos++
			if c == ':' {
				t.out.WriteString("(?" + s + ":")
				return nil
			}
			// A flag for the rest of the enclosing group.
			fold := t.top().fold
			t.groups = t.groups[:len(t.groups)-1]
			t.top().fold = fold
			t.out.WriteString("(?" + s + ")")
			return nil
		default:
			return fmt.Errorf("group (?%c is not supported", c)
		}
	}
	return errors.New("missing )")
}

// quantifier copies a quantifier and turns its Ruby forms into .NET's.
func (t *translator) quantifier() error {
	base := string(t.in[t.pos])
	interval := false
	if base == "{" {
		s, n := t.interval()
		if n == 0 {
			t.emitAtom(`\{`)
			t.pos++
			return nil
		}
		base, interval = s, true
		t.pos += n
	} else {
		t.pos++
	}
	if t.atom < 0 {
		return fmt.Errorf("nothing before the quantifier %s", base)
	}
	atom := t.out.String()[t.atom:]
	before := t.out.String()[:t.atom]
	rewrite := func(s string) {
		t.out.Reset()
		t.out.WriteString(before + s)
	}
	switch {
	case t.peek("?"):
		t.pos++
		if interval && !strings.Contains(base, ",") {
			rewrite("(?:" + atom + base + ")?")
		} else {
			rewrite("(?:" + atom + base + "?)")
		}
	case t.peek("+") && interval:
		t.pos++
		rewrite("(?:(?:" + atom + base + ")+)")
	case t.peek("+"):
		t.pos++
		rewrite("(?>" + atom + base + ")")
	default:
		rewrite("(?:" + atom + base + ")")
	}
	return nil
}

// interval reads {n}, {n,}, {,m} or {n,m} and its length, 0 if it is none.
func (t *translator) interval() (string, int) {
	rest := string(t.in[t.pos:min(len(t.in), t.pos+24)])
	end := strings.IndexByte(rest, '}')
	if end < 0 {
		return "", 0
	}
	lo, hi, comma := strings.Cut(rest[1:end], ",")
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	if !digits(lo) || !digits(hi) || lo == "" && hi == "" {
		return "", 0
	}
	if lo == "" {
		lo = "0"
	}
	if comma {
		return "{" + lo + "," + hi + "}", end + 1
	}
	return "{" + lo + "}", end + 1
}

// escape reads an escape at pos. In a class its result goes between brackets.
func (t *translator) escape(inClass bool) (s string, zeroWidth bool, err error) {
	if t.pos+1 >= len(t.in) {
		return "", false, errors.New(`ends in \`)
	}
	c := t.in[t.pos+1]
	t.pos += 2
	brackets := func(body string, negate bool) (string, bool, error) {
		switch {
		case !inClass && negate:
			return "[^" + body + "]", false, nil
		case !inClass:
			return "[" + body + "]", false, nil
		case negate:
			return "", false, fmt.Errorf(`\%c inside a class is not supported`, c)
		}
		return body, false, nil
	}
	switch {
	case c == 'p' || c == 'P':
		name, negate, err := t.propertyName(c == 'P')
		if err != nil {
			return "", false, err
		}
		if extra, ok := chars.Unicode16[name]; ok && !(inClass && negate) {
			return brackets(`\p{`+name+`}`+rangeText(extra), negate)
		}
		if negate {
			return `\P{` + name + `}`, false, nil
		}
		return `\p{` + name + `}`, false, nil
	case c == 'w' || c == 'W':
		if !inClass {
			return brackets(wordClass+latinWords, c == 'W')
		}
		return brackets(wordClass, c == 'W')
	case c == 'd' || c == 'D':
		if inClass && c == 'D' {
			return `\D`, false, nil
		}
		return brackets(digitClass, c == 'D')
	case c == 'h' || c == 'H':
		return brackets("0-9a-fA-F", c == 'H')
	case c == 's' || c == 'S':
		return `\` + string(c), false, nil
	case c == 'x' || c == 'u':
		r, err := t.codePoint(c)
		return literalText(r), false, err
	case inClass && c == 'b':
		return `\b`, false, nil
	case strings.ContainsRune("bBAzZG", c) && !inClass:
		return `\` + string(c), true, nil
	case strings.ContainsRune("nrtfvae", c):
		return `\` + string(c), false, nil
	case unicode.IsLetter(c) || unicode.IsDigit(c):
		return "", false, fmt.Errorf(`escape \%c is not supported`, c)
	}
	return literalText(c), false, nil
}

// propertyName reads {Name} or {^Name}.
func (t *translator) propertyName(negate bool) (string, bool, error) {
	if !t.peek("{") {
		return "", false, errors.New(`\p without {`)
	}
	rest := string(t.in[t.pos+1:])
	end := strings.IndexByte(rest, '}')
	if end < 0 {
		return "", false, errors.New(`\p{ without }`)
	}
	name := rest[:end]
	t.pos += 2 + len([]rune(name))
	if strings.HasPrefix(name, "^") {
		name, negate = name[1:], !negate
	}
	if long, ok := longNames[strings.ToLower(name)]; ok {
		name = long
	}
	return name, negate, nil
}

var longNames = map[string]string{
	"letter": "L", "number": "N", "mark": "M", "punctuation": "P", "punct": "P", "symbol": "S", "separator": "Z",
}

func (t *translator) codePoint(kind rune) (rune, error) {
	var hex string
	if kind == 'x' && t.peek("{") {
		rest := string(t.in[t.pos+1:])
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return 0, errors.New(`\x{ without }`)
		}
		hex = rest[:end]
		t.pos += end + 2
	} else {
		n := 2
		if kind == 'u' {
			n = 4
		}
		if t.pos+n > len(t.in) {
			return 0, fmt.Errorf(`\%c needs %d digits`, kind, n)
		}
		hex = string(t.in[t.pos : t.pos+n])
		t.pos += n
	}
	v, err := strconv.ParseUint(hex, 16, 32)
	if err != nil || v > unicode.MaxRune {
		return 0, fmt.Errorf(`\%c%s is no character`, kind, hex)
	}
	// Oniguruma reads \x80 and above as bytes of UTF-8.
	if kind == 'x' && len(hex) == 2 && v >= 0x80 {
		return 0, fmt.Errorf(`byte escape \x%s is not supported`, hex)
	}
	return rune(v), nil
}

// literalText escapes a character, inside a class or outside.
func literalText(r rune) string {
	if r < 0x80 && strings.ContainsRune(`\.+*?()|[]{}^$-#& `, r) {
		return `\` + string(r)
	}
	return string(r)
}

// wordClass is Oniguruma's \w between brackets: alphabetic characters, marks, digits
// and connectors. Outside of brackets \w has some numbers of Latin-1 besides.
var (
	wordClass  = alphaClass + `\p{M}\p{Nd}\p{Pc}` + rangeText(chars.Unicode16["M"]) + rangeText(chars.Unicode16["Nd"])
	latinWords = "²³¹¼½¾"
	alphaClass = `\p{L}\p{Nl}` + rangeText(unicode.Other_Alphabetic) + rangeText(chars.Unicode16["L"]) + rangeText(newAlphabetic)
)

// newAlphabetic are the marks that have the property Other_Alphabetic since Unicode
// 16.0.
var newAlphabetic = &unicode.RangeTable{
	R16: []unicode.Range16{{0x363, 0x36F, 1}, {0x897, 0x897, 1}, {0x1DD3, 0x1DE6, 1}},
	R32: []unicode.Range32{
		{0x10D69, 0x10D69, 1}, {0x10EFC, 0x10EFC, 1}, {0x113B8, 0x113C0, 1}, {0x113C2, 0x113C2, 1}, {0x113C5, 0x113C5, 1},
		{0x113C7, 0x113CA, 1}, {0x113CC, 0x113CD, 1}, {0x1611E, 0x1612E, 1},
	},
}

func rangeText(t *unicode.RangeTable) string {
	var b strings.Builder
	add := func(lo, hi rune) {
		b.WriteRune(lo)
		if lo < hi {
			b.WriteByte('-')
			b.WriteRune(hi)
		}
	}
	each := func(lo, hi, stride rune) {
		if stride == 1 {
			add(lo, hi)
			return
		}
		for r := lo; r <= hi; r += stride {
			add(r, r)
		}
	}
	for _, r := range t.R16 {
		each(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	for _, r := range t.R32 {
		each(rune(r.Lo), rune(r.Hi), rune(r.Stride))
	}
	return b.String()
}

var posixClasses = map[string]string{
	"alpha": alphaClass, "digit": digitClass, "space": `\s`, "xdigit": `0-9a-fA-F`, "blank": `\t\p{Zs}`, "cntrl": `\p{Cc}`,
	"alnum": alphaClass + digitClass, "word": wordClass,
	"upper": `\p{Lu}` + rangeText(unicode.Other_Uppercase) + rangeText(chars.Unicode16["Lu"]),
	"lower": `\p{Ll}` + rangeText(unicode.Other_Lowercase) + rangeText(chars.Unicode16["Ll"]),
	"punct": `\p{P}\p{S}` + rangeText(chars.Unicode16["P"]) + rangeText(chars.Unicode16["S"]),
}

var digitClass = `\p{Nd}` + rangeText(chars.Unicode16["Nd"])

// posix reads [:name:] in a bracket expression.
func (t *translator) posix() (string, error) {
	rest := string(t.in[t.pos:])
	end := strings.Index(rest, ":]")
	if end < 0 {
		return "", errors.New("[: without :]")
	}
	name := rest[2:end]
	body, ok := posixClasses[name]
	if !ok {
		return "", fmt.Errorf("class [:%s:] is not supported", name)
	}
	t.pos += 4 + len([]rune(name))
	return body, nil
}

// class copies a bracket expression.
func (t *translator) class() error {
	var b strings.Builder
	b.WriteByte('[')
	t.pos++
	if t.peek("^") {
		b.WriteByte('^')
		t.pos++
	}
	fold := t.top().fold
	hasS := false
	properties, negated := 0, 0
	// pending is a literal that may begin a range.
	pending, ranged := rune(-1), false
	for first := true; ; first = false {
		if t.pos >= len(t.in) {
			return errors.New("missing ]")
		}
		c := t.in[t.pos]
		var lit rune
		switch {
		case c == ']' && !first:
			t.pos++
			if hasS && fold {
				b.WriteRune('ſ')
			}
			b.WriteByte(']')
			if negated > 0 && properties > 1 {
				return errors.New(`a class with \P, \D or \S beside another property is not supported`)
			}
			t.emitAtom(b.String())
			return nil
		case t.peek("[:"):
			body, err := t.posix()
			if err != nil {
				return err
			}
			b.WriteString(body)
			properties++
			pending, ranged = -1, false
			continue
		case c == '[':
			return errors.New("a class inside a class is not supported")
		case t.peek("&&"):
			return errors.New("class intersection && is not supported")
		case c == '\\':
			before := t.pos
			s, _, err := t.escape(true)
			if err != nil {
				return err
			}
			b.WriteString(s)
			if esc := t.in[before+1]; strings.ContainsRune("pPdDsSwh", esc) {
				properties++
				if esc == 'D' || esc == 'S' || strings.HasPrefix(s, `\P`) {
					negated++
				}
				pending, ranged = -1, false
				continue
			}
			rs := []rune(s)
			lit = rs[len(rs)-1]
		case c == '-' && pending >= 0 && !ranged && t.pos+1 < len(t.in) && t.in[t.pos+1] != ']':
			b.WriteByte('-')
			ranged = true
			t.pos++
			continue
		default:
			lit = c
			b.WriteString(literalText(c))
			t.pos++
		}
		if ranged {
			hasS = hasS || pending <= 's' && 's' <= lit || pending <= 'S' && 'S' <= lit
			pending, ranged = -1, false
			continue
		}
		hasS = hasS || (lit == 's' || lit == 'S') && c != '\\'
		pending = lit
	}
}
