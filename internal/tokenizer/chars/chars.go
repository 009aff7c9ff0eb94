// Package chars holds what tokenizers ask about characters: classes and normal
// forms, by the Unicode versions that Hugging Face's tokenizers library has, and
// the symbols that stand for bytes.
package chars

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/rangetable"
)

// Class is what the splitting patterns ask about a character.
type Class uint8

const (
	Other Class = iota
	Letter
	Number
	Space
)

var asciiClass = func() (t [128]Class) {
	for i := range t {
		t[i] = classOf(rune(i))
	}
	return t
}()

func classOf(r rune) Class {
	switch {
	case IsLetter(r):
		return Letter
	case IsNumber(r):
		return Number
	case unicode.IsSpace(r):
		return Space
	}
	return Other
}

var (
	newLetters = Unicode16["L"]
	newMarks   = Unicode16["M"]
)

// IsLetter is \p{L}.
func IsLetter(r rune) bool {
	return unicode.Is(unicode.L, r) || r >= firstNew && unicode.Is(newLetters, r)
}

// IsNumber is \p{N}.
func IsNumber(r rune) bool {
	return unicode.Is(unicode.N, r) || r >= firstNew && unicode.Is(newDigits, r)
}

// IsMark is \p{M}.
func IsMark(r rune) bool {
	return unicode.Is(unicode.M, r) || r >= firstNew && unicode.Is(newMarks, r)
}

// firstNew is the lowest character of Unicode16.
const firstNew = 0x897

// ClassAt is the class of the character at s[i] and its length in bytes. Past
// the end it is 0 bytes long.
func ClassAt(s string, i int) (Class, int) {
	if i >= len(s) {
		return Other, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return classOf(r), n
}

// IsWord is \w of UTS 18: letters, marks, decimal numbers, connectors, joiners
// and the other alphabetic characters.
func IsWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || asciiClass[r] == Letter || asciiClass[r] == Number
	}
	return IsLetter(r) || IsMark(r) || unicode.In(r, unicode.Nd, newDigits, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Other_Lowercase, unicode.Other_Uppercase, unicode.Join_Control)
}

// The versions that the reference's tables have.
var (
	unicode8 = rangetable.Assigned("8.0.0")
	unicode9 = rangetable.Assigned("9.0.0")
)

// IsPunct is punctuation: \p{P} of Unicode 8.0 and all of ASCII's.
func IsPunct(r rune) bool {
	if r < utf8.RuneSelf {
		return '!' <= r && r <= '/' || ':' <= r && r <= '@' || '[' <= r && r <= '`' || '{' <= r && r <= '~'
	}
	return unicode.Is(unicode.P, r) && unicode.Is(unicode8, r) || r == 0x166D || r == 0x111C9
}

// IsAccent is \p{M} of Unicode 9.0, what StripAccents removes.
func IsAccent(r rune) bool {
	return unicode.Is(unicode.M, r) && unicode.Is(unicode9, r) && r != 0x111C9 || r == 0x1CF2 || r == 0x1CF3
}

// IsNonspacing is \p{Mn} of Unicode 8.0, what BertNormalizer removes.
func IsNonspacing(r rune) bool {
	switch r {
	case 0x1734:
		return true
	case 0x1885, 0x1886, 0xA9BD, 0x111C9:
		return false
	}
	return unicode.Is(unicode.Mn, r) && unicode.Is(unicode8, r)
}

// IsControl is \p{Cc}, \p{Cf} and \p{Co} of Unicode 8.0.
func IsControl(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co) && (r < utf8.RuneSelf || unicode.Is(unicode8, r))
}

// IsIdeograph is what BERT puts spaces around.
func IsIdeograph(r rune) bool {
	return 0x4E00 <= r && r <= 0x9FFF || 0x3400 <= r && r <= 0x4DBF || 0x20000 <= r && r <= 0x2A6DF ||
		0x2A700 <= r && r <= 0x2B81F || 0x2B920 <= r && r <= 0x2CEAF || 0xF900 <= r && r <= 0xFAFF || 0x2F800 <= r && r <= 0x2FA1F
}

// TrimLeftSpace cuts white space off the start.
func TrimLeftSpace(s string) string { return strings.TrimLeftFunc(s, unicode.IsSpace) }

// TrimRightSpace cuts white space off the end.
func TrimRightSpace(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }

// Lowercase maps character by character, without the context rule for the Greek
// final sigma.
func Lowercase(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		if r == 'İ' { // the only one whose full mapping is longer than one
			b.WriteString("i̇")
			continue
		}
		b.WriteRune(toLower(r))
	}
	return b.String()
}

// toLower knows the case pairs that came with Unicode 16.0 and 17.0.
func toLower(r rune) rune {
	switch {
	case r < firstNew:
	case r == 0x1C89, r == 0xA7CC, r == 0xA7CE, r == 0xA7D2, r == 0xA7D4, r == 0xA7DA:
		return r + 1
	case r == 0xA7CB:
		return 0x264
	case r == 0xA7DC:
		return 0x19B
	case 0x10D50 <= r && r <= 0x10D65:
		return r + 0x20
	case 0x16EA0 <= r && r <= 0x16EB8:
		return r + 0x1B
	}
	return unicode.ToLower(r)
}
