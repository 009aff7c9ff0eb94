package chars

import (
	"sort"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// Normalize applies a Unicode normalization form as the reference does, which
// differs from the norm package in two ways. The package keeps to the
// Stream-Safe Text Format (UAX 15, section 13) and breaks up more than 30
// combining marks in a row by U+034F. And the reference's tables are those of
// Unicode 9.0, where later characters neither decompose nor reorder. Text with
// either takes a way of its own.
func Normalize(s string, f norm.Form) string {
	switch {
	case unusual(s):
		return longForm(s, f)
	case f.IsNormalString(s):
		return s
	}
	return f.String(s)
}

// unusual reports a run of marks that may decompose into more than 30, or a
// inert character.
func unusual(s string) bool {
	marks := 0
	for _, r := range s {
		if r < 0x300 {
			marks = 0
			continue
		}
		if inert(r) {
			return true
		}
		if !unicode.Is(unicode.M, r) {
			marks = 0
		} else if marks++; marks > 8 {
			return true
		}
	}
	return false
}

// inert reports a character that Unicode 9.0 does not have: it neither decomposes
// nor reorders.
func inert(r rune) bool { return r >= 0x300 && !unicode.Is(unicode9, r) }

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
		if inert(r) {
			rs = append(rs, r)
			continue
		}
		// One character alone is never long enough to be broken up.
		rs = append(rs, []rune(f.String(string(r)))...)
	}
	return rs
}

func combining(r rune) uint8 {
	if r < 0x300 || inert(r) {
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
	return rs[0], len(rs) == 1 && !inert(rs[0])
}
