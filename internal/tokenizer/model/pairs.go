package model

import "github.com/golowbit/lowbit/internal/tokenizer/prefix"

// Pairs lists the pairs of tokens that make a token, for models that give each token a
// rank instead of listing merges: the neighbours whose union ranks lowest merge first.
// The tokens stand in ascending order of their ranks.
func Pairs(tokens []string, ranks []uint32) (merges [][2]string, mergeRanks []uint32) {
	index := make([]int32, len(tokens))
	for i := range index {
		index[i] = int32(i)
	}
	trie := prefix.Build(tokens, index)
	for i, s := range tokens {
		for node, at := prefix.Root, 0; at+1 < len(s); at++ {
			if node = trie.Step(node, s[at]); node < 0 {
				break
			}
			if trie.Value(node) < 0 {
				continue
			}
			if n, _ := trie.Longest(s[at+1:]); n == len(s)-at-1 {
				merges, mergeRanks = append(merges, [2]string{s[:at+1], s[at+1:]}), append(mergeRanks, ranks[i])
			}
		}
	}
	return merges, mergeRanks
}
