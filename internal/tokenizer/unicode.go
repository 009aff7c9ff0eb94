package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// class is what the splitting patterns ask about a character.
type class uint8

const (
	other class = iota
	letter
	number
	space
)

var asciiClass = func() (t [128]class) {
	for i := range t {
		t[i] = classOf(rune(i))
	}
	return t
}()

func classOf(r rune) class {
	switch {
	case isLetter(r):
		return letter
	case isNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return other
}

var (
	newLetters = unicode16["L"]
	newMarks   = unicode16["M"]
)

func isLetter(r rune) bool {
	return unicode.Is(unicode.L, r) || r >= firstNew && unicode.Is(newLetters, r)
}

func isNumber(r rune) bool {
	return unicode.Is(unicode.N, r) || r >= firstNew && unicode.Is(newDigits, r)
}

func isMark(r rune) bool {
	return unicode.Is(unicode.M, r) || r >= firstNew && unicode.Is(newMarks, r)
}

// firstNew is the lowest character of unicode16.
const firstNew = 0x897

// classAt is the class of the character at s[i] and its length in bytes. Past
// the end it is 0 bytes long.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return other, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return classOf(r), n
}

// isWord is \w of UTS 18: letters, marks, decimal numbers, connectors, joiners
// and the other alphabetic characters.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || asciiClass[r] == letter || asciiClass[r] == number
	}
	return isLetter(r) || isMark(r) || unicode.In(r, unicode.Nd, newDigits, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Other_Lowercase, unicode.Other_Uppercase, unicode.Join_Control)
}

func isPunct(r rune) bool {
	if r < utf8.RuneSelf {
		return '!' <= r && r <= '/' || ':' <= r && r <= '@' || '[' <= r && r <= '`' || '{' <= r && r <= '~'
	}
	return unicode.Is(unicode.P, r)
}

func trimLeftSpace(s string) string  { return strings.TrimLeftFunc(s, unicode.IsSpace) }
func trimRightSpace(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }
