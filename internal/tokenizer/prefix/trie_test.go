package prefix

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestTrie holds the trie to a search through a list.
func TestTrie(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.StringOfN(rapid.RuneFrom([]rune("abcdefghijklmnop\xffé")), 0, 4, -1)
		keys := rapid.SliceOfN(words, 0, 60).Draw(t, "keys")
		values := make([]int32, len(keys))
		for i := range values {
			values[i] = int32(i)
		}
		trie := Build(keys, values)
		s := rapid.StringOfN(rapid.RuneFrom([]rune("abcdefghijklmnop\xffé")), 0, 20, -1).Draw(t, "s")
		longest := func(s string) (n int, v int32) {
			v = -1
			for i, k := range keys {
				if k != "" && strings.HasPrefix(s, k) && len(k) >= n {
					n, v = len(k), int32(i)
				}
			}
			return n, v
		}
		n, v := trie.Longest(s)
		wantN, wantV := longest(s)
		require.Equal(t, wantN, n)
		require.Equal(t, wantV, v)
		for from := range len(s) + 1 {
			start, end, v := trie.Find(s, from)
			wantStart, wantEnd, wantV := 0, 0, int32(-1)
			for i := from; i < len(s) && wantV < 0; i++ {
				var n int
				if n, wantV = longest(s[i:]); wantV >= 0 {
					wantStart, wantEnd = i, i+n
				}
			}
			require.Equal(t, []int{wantStart, wantEnd, int(wantV)}, []int{start, end, int(v)})
		}
	})
}

func TestEmptyTrie(t *testing.T) {
	trie := Build([]string{""}, []int32{0})
	require.True(t, trie.Empty())
	_, _, v := trie.Find("a", 0)
	require.Equal(t, int32(-1), v)
	require.Equal(t, int32(-1), trie.Step(Root, 'a'))
	require.Equal(t, int32(-1), trie.Value(Root))
}
