package model

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestLong: a long word has the ids that merging all of it gives, in every kind of
// vocabulary, and is cut.
func TestLong(t *testing.T) {
	fallback := map[string]int64{}
	for b := range 256 {
		fallback[fmt.Sprintf("<0x%02X>", b)] = int64(b)
	}
	small := func(unknown string, fallback map[string]int64) BPEConfig {
		vocab := map[string]int64{}
		for s, id := range fallback {
			vocab[s] = id
		}
		if unknown != "" {
			vocab[unknown] = int64(len(vocab))
		}
		for _, s := range []string{"▁", "a", "b", "c", "中", "文", "ab", "abc", "中文", "ca", "▁a", "aa", "aaa"} {
			vocab[s] = int64(len(vocab))
		}
		v, err := NewVocab(vocab)
		require.NoError(t, err)
		return BPEConfig{
			Vocab: v, Unknown: unknown, FuseUnknown: true, ByteFallback: fallback != nil,
			Merges: [][2]string{{"c", "a"}, {"a", "b"}, {"ab", "c"}, {"中", "文"}, {"▁", "a"}, {"a", "a"}, {"aa", "a"}},
		}
	}
	models := map[string]*BPE{"byte level": byteLevel(t)}
	for name, c := range map[string]BPEConfig{
		"fallback": small("", fallback), "unknown": small("<unk>", nil), "both": small("<unk>", fallback), "left out": small("", nil),
	} {
		m, err := NewBPE(c)
		require.NoError(t, err)
		models[name] = m
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for name, m := range models {
		require.NotNil(t, m.joined(), name)
		for _, alphabet := range []string{"abc", "abc中文", "abcxyz中文語ё", "xy", "a", "aбb", "thequickbrown. ,"} {
			letters := []rune(alphabet)
			var b strings.Builder
			for b.Len() < 8*longWord {
				b.WriteRune(letters[rng.IntN(len(letters))])
			}
			s, e := b.String(), m.NewEncoder().(*bpeEncoder)
			bytes := name == "byte level"
			want := append([]int32(nil), e.segment(s, bytes, false)...)
			require.Equal(t, want, e.word(nil, s, bytes, false), "%s: %s", name, alphabet)
			if alphabet == "abcxyz中文語ё" {
				cut := m.NewEncoder().(*bpeEncoder)
				cut.word(nil, s, bytes, false)
				require.Less(t, cap(cut.ids), longWord, "%s: %s", name, alphabet)
			}
		}
	}
}
