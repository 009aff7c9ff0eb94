// Package pattern reads the regular expressions of tokenizer.json and finds their
// matches as Oniguruma does, which Hugging Face's tokenizers library uses.
package pattern

import (
	"fmt"

	"github.com/dlclark/regexp2"
)

// Regex is a pattern of tokenizer.json. The reference compiles them with
// Oniguruma; here they are translated (translate.go) for regexp2, which has the
// lookahead and lookbehind that Go's own package lacks.
type Regex struct {
	re   *regexp2.Regexp
	next nextFunc // hand-written twin, if there is one
}

// Compile reads a pattern; its errors name it.
func Compile(pattern string) (*Regex, error) {
	t, err := translate(pattern)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	re, err := regexp2.Compile(t, regexp2.Multiline)
	if err != nil {
		return nil, fmt.Errorf("pattern %q: %w", pattern, err)
	}
	return &Regex{re: re, next: knownPattern(pattern)}, nil
}

// Find covers s with matches and what lies between them, in order. An empty
// match right after a match does not count.
func (r *Regex) Find(s string, yield func(start, end int, match bool)) {
	if r.next == nil {
		r.findGeneral(s, yield)
		return
	}
	for i := 0; i < len(s); {
		end := r.next(s, i)
		yield(i, end, true)
		i = end
	}
}

func (r *Regex) findGeneral(s string, yield func(start, end int, match bool)) {
	if s == "" {
		return
	}
	text := []rune(s)
	// at is a byte offset that follows the rune offset pos.
	at, pos := 0, 0
	advance := func(to int) int {
		for ; pos < to; pos++ {
			at += runeLen(text[pos])
		}
		return at
	}
	done, last := 0, -1 // byte and rune offset of the end of the last match
	for from := 0; from <= len(text); {
		m, err := r.re.FindRunesMatchStartingAt(text, from)
		// No time limit is set, so there is no error but the end.
		if err != nil || m == nil {
			break
		}
		if m.Length == 0 && m.Index == last {
			from++
			continue
		}
		start := advance(m.Index)
		if done < start {
			yield(done, start, false)
		}
		last = m.Index + m.Length
		from = last
		done = advance(last)
		yield(start, done, true)
	}
	if done < len(s) {
		yield(done, len(s), false)
	}
}

func runeLen(r rune) int {
	switch {
	case r < 0x80:
		return 1
	case r < 0x800:
		return 2
	case r < 0x10000:
		return 3
	}
	return 4
}
