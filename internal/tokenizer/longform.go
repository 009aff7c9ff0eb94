package tokenizer

import (
	"sort"

	"golang.org/x/text/unicode/norm"
)

// longForm is Unicode normalization by the definition (Unicode 15, section
// 3.11): decompose, order marks by combining class, compose.
func longForm(s string, f norm.Form) string {
	compat := f == norm.NFKC || f == norm.NFKD
	rs := decompose(s, compat)
	orderMarks(rs)
	if f == norm.NFC || f == norm.NFKC {
		rs = compose(rs)
	}
	return string(rs)
}

func decompose(s string, compat bool) []rune {
	f := norm.NFD
	if compat {
		f = norm.NFKD
	}
	rs := make([]rune, 0, len(s))
	for _, r := range s {
		// One character alone is never long enough to be broken up.
		rs = append(rs, []rune(f.String(string(r)))...)
	}
	return rs
}

func combining(r rune) uint8 {
	if r < 0x300 {
		return 0
	}
	return norm.NFD.PropertiesString(string(r)).CCC()
}

func orderMarks(rs []rune) {
	for i := 0; i < len(rs); {
		if combining(rs[i]) == 0 {
			i++
			continue
		}
		j := i
		for j < len(rs) && combining(rs[j]) != 0 {
			j++
		}
		marks := rs[i:j]
		sort.SliceStable(marks, func(a, b int) bool { return combining(marks[a]) < combining(marks[b]) })
		i = j
	}
}

// compose joins each starter with the marks after it that nothing blocks.
func compose(rs []rune) []rune {
	out := rs[:0]
	starter, last := -1, uint8(0) // place of the starter in out; class of what precedes
	for _, r := range rs {
		c := combining(r)
		if starter >= 0 && (last == 0 && starter == len(out)-1 || last != 0 && last < c) {
			if p, ok := pair(out[starter], r); ok {
				out[starter] = p
				continue
			}
		}
		out = append(out, r)
		if c == 0 {
			starter = len(out) - 1
		}
		last = c
	}
	return out
}

// pair is the primary composite of two characters.
func pair(a, b rune) (rune, bool) {
	rs := []rune(norm.NFC.String(string(a) + string(b)))
	return rs[0], len(rs) == 1
}
