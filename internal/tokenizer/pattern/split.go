package pattern

import (
	"strings"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
)

// The splitting patterns met most, each with a hand-written twin that is held
// to the regular expression by a test.
const (
	GPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	Llama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	Qwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// nextFunc returns the end of the match that starts at s[i], i < len(s). The
// patterns it stands for match everywhere.
type nextFunc func(s string, i int) int

func knownPattern(pattern string) nextFunc {
	switch pattern {
	case GPT2:
		return NextGPT2
	case Llama3:
		return func(s string, i int) int { return nextCL100K(s, i, 3) }
	case Qwen2:
		return func(s string, i int) int { return nextCL100K(s, i, 1) }
	}
	return nil
}

// NextGPT2 is the end of the match of GPT-2's pattern at s[i], i < len(s).
func NextGPT2(s string, i int) int {
	if s[i] == '\'' {
		if n := contraction(s[i+1:], false); n > 0 {
			return i + 1 + n
		}
	}
	j := i
	if s[j] == ' ' {
		j++
	}
	c, n := chars.ClassAt(s, j)
	if n == 0 || c == chars.Space {
		return spaces(s, i)
	}
	return run(s, j+n, c)
}

func nextCL100K(s string, i, digits int) int {
	c, n := chars.ClassAt(s, i)
	if s[i] == '\'' {
		if n := contraction(s[i+1:], true); n > 0 {
			return i + 1 + n
		}
	}
	switch {
	case c == chars.Letter:
		return run(s, i+n, chars.Letter)
	case c == chars.Number:
		end := i + n
		for k := 1; k < digits; k++ {
			c, n := chars.ClassAt(s, end)
			if n == 0 || c != chars.Number {
				break
			}
			end += n
		}
		return end
	}
	// One character that is no line break may lead a word.
	if s[i] != '\r' && s[i] != '\n' {
		if c, m := chars.ClassAt(s, i+n); m > 0 && c == chars.Letter {
			return run(s, i+n+m, chars.Letter)
		}
	}
	j := i
	if s[j] == ' ' {
		j++
	}
	if c, n := chars.ClassAt(s, j); n > 0 && c == chars.Other {
		end := run(s, j+n, chars.Other)
		for end < len(s) && (s[end] == '\r' || s[end] == '\n') {
			end++
		}
		return end
	}
	end := run(s, i, chars.Space)
	if k := strings.LastIndexAny(s[i:end], "\r\n"); k >= 0 {
		return i + k + 1
	}
	return spaces(s, i)
}

// run is the end of the characters of class c from s[i] on.
func run(s string, i int, c chars.Class) int {
	for i < len(s) {
		d, n := chars.ClassAt(s, i)
		if d != c {
			break
		}
		i += n
	}
	return i
}

// spaces is \s+(?!\S)|\s+ : all but the last of the spaces, which goes with the
// word that follows, unless it is the only one or nothing follows.
func spaces(s string, i int) int {
	end := run(s, i, chars.Space)
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

// contraction is the length of s|t|re|ve|m|ll|d at the start of s, 0 if none.
// With fold it goes by Unicode case folding, where ſ (U+017F) is an s.
func contraction(s string, fold bool) int {
	at := func(i int) byte {
		if i >= len(s) {
			return 0
		}
		c := s[i]
		if fold && 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}
	switch c, d := at(0), at(1); {
	case c == 's', c == 't', c == 'm', c == 'd':
		return 1
	case (c == 'r' || c == 'v') && d == 'e', c == 'l' && d == 'l':
		return 2
	case fold && strings.HasPrefix(s, "ſ"):
		return len("ſ")
	}
	return 0
}
