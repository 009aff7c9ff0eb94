package chars

import (
	"strings"
	"unicode/utf8"
)

// ByteSymbols is GPT-2's printable stand-in for every byte: printable Latin-1
// stands for itself, the rest are numbered from U+0100 on.
var ByteSymbols = func() (t [256]rune) {
	n := rune(0)
	for b := range t {
		r := rune(b)
		if '!' <= r && r <= '~' || 0xA1 <= r && r <= 0xAC || 0xAE <= r {
			t[b] = r
			continue
		}
		t[b] = 256 + n
		n++
	}
	return t
}()

// symbolByte inverts ByteSymbols; -1 marks runes that stand for no byte.
var symbolByte = func() (t [256 + 68]int16) {
	for i := range t {
		t[i] = -1
	}
	for b, r := range ByteSymbols {
		t[r] = int16(b)
	}
	return t
}()

// ToSymbols writes every byte of s as its symbol.
func ToSymbols(s string) string {
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	for i := 0; i < len(s); i++ {
		b.WriteRune(ByteSymbols[s[i]])
	}
	return b.String()
}

// AppendFromSymbols appends the bytes that the symbols of s stand for. Where s
// holds anything else it is appended as it is.
func AppendFromSymbols(dst []byte, s string) []byte {
	n := len(dst)
	for _, r := range s {
		if int(r) >= len(symbolByte) || symbolByte[r] < 0 {
			return append(dst[:n], s...)
		}
		dst = append(dst, byte(symbolByte[r]))
	}
	return dst
}

// ValidUTF8 replaces every maximal invalid part of s (Unicode 15, section 3.9,
// "substitution of maximal subparts") with U+FFFD.
func ValidUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 8)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n <= 1 {
			n = invalidLen(s[i:])
			b.WriteRune(utf8.RuneError)
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// invalidLen is the length of the maximal subpart at the start of s, which
// starts with an invalid sequence.
func invalidLen(s string) int {
	lo, hi := byte(0x80), byte(0xBF)
	var want int
	switch c := s[0]; {
	case 0xC2 <= c && c <= 0xDF:
		want = 2
	case 0xE0 <= c && c <= 0xEF:
		want = 3
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case 0xF0 <= c && c <= 0xF4:
		want = 4
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	default:
		return 1
	}
	n := 1
	for n < want && n < len(s) && lo <= s[n] && s[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}
