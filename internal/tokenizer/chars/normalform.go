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
// character of unicode9Inert.
func unusual(s string) bool {
	marks := 0
	for _, r := range s {
		if r < 0x300 {
			marks = 0
			continue
		}
		if unicode.Is(unicode9Inert, r) {
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

// unicode9Inert holds the characters added since Unicode 9.0 that have a
// combining class or a decomposition.
var unicode9Inert = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x7FD, 0x7FD, 1}, {0x898, 0x89F, 1}, {0x8CA, 0x8D3, 1}, {0x9FE, 0x9FE, 1}, {0xC3C, 0xC3C, 1},
		{0xD3B, 0xD3C, 1}, {0xEBA, 0xEBA, 1}, {0x1715, 0x1715, 1}, {0x1ABF, 0x1ACE, 1}, {0x1DF6, 0x1DFA, 1},
		{0x32FF, 0x32FF, 1}, {0xA7F2, 0xA7F4, 1}, {0xA82C, 0xA82C, 1}, {0xAB69, 0xAB69, 1},
	},
	R32: []unicode.Range32{
		{0x10781, 0x10785, 1}, {0x10787, 0x107B0, 1}, {0x107B2, 0x107BA, 1}, {0x10D24, 0x10D27, 1},
		{0x10EAB, 0x10EAC, 1}, {0x10EFD, 0x10EFF, 1}, {0x10F46, 0x10F50, 1}, {0x10F82, 0x10F85, 1},
		{0x11070, 0x11070, 1}, {0x1133B, 0x1133B, 1}, {0x1145E, 0x1145E, 1}, {0x11839, 0x1183A, 1},
		{0x11938, 0x11938, 1}, {0x1193D, 0x1193E, 1}, {0x11943, 0x11943, 1}, {0x119E0, 0x119E0, 1},
		{0x11A34, 0x11A34, 1}, {0x11A47, 0x11A47, 1}, {0x11A99, 0x11A99, 1}, {0x11D42, 0x11D42, 1},
		{0x11D44, 0x11D45, 1}, {0x11D97, 0x11D97, 1}, {0x11F41, 0x11F42, 1}, {0x16FF0, 0x16FF1, 1},
		{0x1E030, 0x1E06D, 1}, {0x1E08F, 0x1E08F, 1}, {0x1E130, 0x1E136, 1}, {0x1E2AE, 0x1E2AE, 1},
		{0x1E2EC, 0x1E2EF, 1}, {0x1E4EC, 0x1E4EF, 1}, {0x1F16C, 0x1F16C, 1}, {0x1FBF0, 0x1FBF9, 1},
	},
}

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
		if unicode.Is(unicode9Inert, r) {
			rs = append(rs, r)
			continue
		}
		// One character alone is never long enough to be broken up.
		rs = append(rs, []rune(f.String(string(r)))...)
	}
	return rs
}

func combining(r rune) uint8 {
	if r < 0x300 || unicode.Is(unicode9Inert, r) {
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
	return rs[0], len(rs) == 1 && !unicode.Is(unicode9Inert, rs[0])
}
