package model

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// byteLevel is the model of a small byte-level tokenizer.
func byteLevel(t testing.TB) *BPE {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "tinyllama-2m", "tokenizer.json"))
	require.NoError(t, err)
	var f struct {
		Model struct {
			Vocab  map[string]int64
			Merges []string
		}
	}
	require.NoError(t, json.Unmarshal(data, &f))
	vocab, err := NewVocab(f.Model.Vocab)
	require.NoError(t, err)
	var merges [][2]string
	for _, m := range f.Model.Merges {
		a, b, _ := strings.Cut(m, " ")
		merges = append(merges, [2]string{a, b})
	}
	m, err := NewBPE(BPEConfig{Vocab: vocab, Merges: merges})
	require.NoError(t, err)
	return m
}

// naive is BPE as the paper has it, without heap, list or table.
func naive(m *BPE, ids []int32) []int32 {
	type pair [2]int32
	ranks, results := map[pair]int{}, map[pair]int32{}
	for r, p := range m.merges {
		k := pair{m.vocab.ids[p[0]], m.vocab.ids[p[1]]}
		ranks[k], results[k] = r, m.vocab.ids[p[0]+p[1]]
	}
	ids = append([]int32{}, ids...)
	for {
		at := -1
		for i := 0; i+1 < len(ids); i++ {
			if r, ok := ranks[pair{ids[i], ids[i+1]}]; ok && (at < 0 || r < ranks[pair{ids[at], ids[at+1]}]) {
				at = i
			}
		}
		if at < 0 {
			return ids
		}
		ids[at] = results[pair{ids[at], ids[at+1]}]
		ids = append(ids[:at+1], ids[at+2:]...)
	}
}

func TestMergeAgainstNaive(t *testing.T) {
	m := byteLevel(t)
	rapid.Check(t, func(t *rapid.T) {
		// Frequent bytes, so that merges pile up.
		s := rapid.StringOfN(rapid.RuneFrom([]rune("theand wasior l")), 2, 90, -1).Draw(t, "s")
		var ids []int32
		for i := range len(s) {
			ids = append(ids, m.symbol[s[i]])
		}
		want := naive(m, ids)
		short := merger{table: m.table}
		require.Equal(t, want, short.mergeShort(append([]int32{}, ids...)))
		require.Equal(t, want, short.mergeLong(append([]int32{}, ids...)))
	})
}

// TestWordStart holds the cut before every "▁" to whole texts.
func TestWordStart(t *testing.T) {
	tokens := []string{"<unk>", "▁", "t", "h", "e", "a", "n", "d", "▁▁", "th", "the", "▁the", "an", "▁an", "▁▁▁▁"}
	merges := [][2]string{{"▁", "▁"}, {"t", "h"}, {"th", "e"}, {"▁", "the"}, {"a", "n"}, {"▁", "an"}, {"▁▁", "▁▁"}}
	build := func() *BPE {
		m, err := NewBPE(BPEConfig{Vocab: NewVocabList(tokens), Merges: merges, Unknown: "<unk>"})
		require.NoError(t, err)
		return m
	}
	cut, whole := build(), build()
	require.True(t, cut.wordStart)
	whole.wordStart = false
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringOf(rapid.RuneFrom([]rune("theand▁▁▁ x"))).Draw(t, "s")
		require.Equal(t, whole.NewEncoder().Encode(nil, s, false), cut.NewEncoder().Encode(nil, s, false))
	})
	// A merge across "▁" or characters that are dropped forbid it.
	for name, c := range map[string]BPEConfig{
		"crossing": {Unknown: "a", Vocab: NewVocabList([]string{"a", "▁", "a▁"}), Merges: [][2]string{{"a", "▁"}}},
		"dropping": {Vocab: NewVocabList([]string{"a", "▁", "▁▁"}), Merges: [][2]string{{"▁", "▁"}}},
		"absent":   {Unknown: "a", Vocab: NewVocabList([]string{"a"})},
	} {
		m, err := NewBPE(c)
		require.NoError(t, err)
		require.False(t, m.wordStart, name)
	}
}

// TestCacheOverflow runs more different words than the cache holds ids.
func TestCacheOverflow(t *testing.T) {
	e := byteLevel(t).NewEncoder().(*bpeEncoder)
	e.arena = make([]int32, 4*maxCache)
	first := e.Encode(nil, "hello", true)
	require.Less(t, len(e.arena), 10)
	require.Equal(t, first, e.Encode(nil, "hello", true))
	require.Len(t, e.cache, 1)
}
