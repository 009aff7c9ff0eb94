package model

import (
	"slices"
	"unicode/utf8"

	"github.com/golowbit/lowbit/internal/tokenizer/chars"
)

// longWord is from how many bytes on a word is looked at for places where it may be
// cut. To merge takes more than thirty times the memory of the word, and there are
// languages without spaces.
const longWord = 1 << 12

// joints are the neighbouring characters that some merge brings together.
type joints map[[2]rune]struct{}

// findJoints returns nil where what characters alone tell is not enough: where ids
// depend on their places in the piece, symbols that merge stand for characters that
// they do not spell, or a long word may be one token.
func (m *BPE) findJoints() joints {
	if m.prefix != "" || m.suffix != "" || len(m.split) > 0 {
		return nil
	}
	for _, s := range m.vocab.tokens {
		if len(s) > longWord {
			return nil
		}
	}
	j := make(joints)
	for _, p := range m.merges {
		for _, s := range p {
			id := m.vocab.ids[s]
			if id == m.unk || slices.Contains(m.byteToken[:], id) {
				return nil
			}
		}
		a, _ := utf8.DecodeLastRuneInString(p[0])
		b, _ := utf8.DecodeRuneInString(p[1])
		j[[2]rune{a, b}] = struct{}{}
	}
	return j
}

// long appends the ids of a long word, cut where no merge reaches across: each part
// merges as it would beside the others. A run of unknown characters is not cut, as it
// may be one token.
func (e *bpeEncoder) long(dst []int32, s string, bytes bool) []int32 {
	before, from, joined := len(dst), 0, e.m.joined()
	last, known := rune(-1), false
	for i := 0; i < len(s); {
		r, n, k := rune(0), 1, false
		if bytes {
			r, k = chars.ByteSymbols[s[i]], e.m.symbol[s[i]] >= 0
		} else {
			r, n = utf8.DecodeRuneInString(s[i:])
			k = e.spelled(s[i : i+n])
		}
		// One that is left out brings its neighbours together.
		if known && (k || e.m.unk >= 0) && i-from >= longWord/4 {
			if _, ok := joined[[2]rune{last, r}]; !ok {
				dst = Room(append(dst, e.segment(s[from:i], bytes, false)...), before, i, len(s))
				from = i
			}
		}
		last, known, i = r, k, i+n
	}
	return append(dst, e.segment(s[from:], bytes, false)...)
}

// spelled reports whether a character has ids of its own.
func (e *bpeEncoder) spelled(c string) bool {
	if _, ok := e.m.vocab.ids[c]; ok {
		return true
	}
	if !e.m.fallback {
		return false
	}
	for i := range len(c) {
		if e.m.byteToken[c[i]] < 0 {
			return false
		}
	}
	return true
}
