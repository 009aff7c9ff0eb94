package chars

import (
	"slices"
	"sort"
	"sync"
	"unicode"
)

// Script tells the scripts of characters apart, by Unicode 9.0. It is 0 for
// characters without one.
type Script uint8

type scriptRange struct {
	lo, hi rune
	script Script
}

// scripts are the ranges of all scripts in order, and the numbers of the scripts.
var scripts = sync.OnceValues(func() ([]scriptRange, map[string]Script) {
	names := make([]string, 0, len(unicode.Scripts))
	for name := range unicode.Scripts {
		names = append(names, name)
	}
	slices.Sort(names)
	numbers := make(map[string]Script, len(names))
	var all []scriptRange
	for i, name := range names {
		script := Script(i + 1)
		numbers[name] = script
		t := unicode.Scripts[name]
		for _, r := range t.R16 {
			all = appendScript(all, rune(r.Lo), rune(r.Hi), rune(r.Stride), script)
		}
		for _, r := range t.R32 {
			all = appendScript(all, rune(r.Lo), rune(r.Hi), rune(r.Stride), script)
		}
	}
	slices.SortFunc(all, func(a, b scriptRange) int { return int(a.lo - b.lo) })
	return all, numbers
})

func appendScript(all []scriptRange, lo, hi, stride rune, s Script) []scriptRange {
	if stride == 1 {
		return append(all, scriptRange{lo, hi, s})
	}
	for r := lo; r <= hi; r += stride {
		all = append(all, scriptRange{r, r, s})
	}
	return all
}

// ScriptOf is the script of a character as SentencePiece groups them: Hiragana and
// Katakana count as Han, a space has none.
func ScriptOf(r rune) Script {
	all, numbers := scripts()
	name := ""
	switch r {
	case ' ':
		return 0
	case 0x61C, 0x589:
		name = "Common"
	case 0x953, 0x954:
		name = "Devanagari"
	case 0x30FC:
		name = "Han"
	}
	if name != "" {
		return numbers[name]
	}
	i := sort.Search(len(all), func(i int) bool { return all[i].hi >= r })
	if i == len(all) || r < all[i].lo || !unicode.Is(unicode9, r) {
		return 0
	}
	s := all[i].script
	if s == numbers["Hiragana"] || s == numbers["Katakana"] {
		return numbers["Han"]
	}
	return s
}
