package text

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/tokenizer"
)

// TestMemory: all that is allocated to read and encode a text, whether or not it is
// collected meanwhile, is no more than Memory says: for tokens of many bytes and of
// one, with spaces and without, and where that changes on the way.
func TestMemory(t *testing.T) {
	const n = 16 << 20
	const words, syllables, bytes = "once upon a time there was a little girl\n", "Zyx wvu tsrq ponm lkji hgfe dcba 8172\n", "\u4e2d\u6587\u6c49\u5b57"
	open := func(path string) *tokenizer.Tokenizer {
		tok, err := tokenizer.Open(path)
		require.NoError(t, err)
		return tok
	}
	kinds := map[string]*tokenizer.Tokenizer{"byte level": open("../../testdata/tinyllama-2m")}
	llama := "../../../shared/models/tinystories-260k"
	if _, err := os.Stat(llama); err == nil {
		kinds["metaspace"] = open(llama)
	} else {
		t.Log("without a tokenizer of Llama's kind: needs the shared reference data")
	}
	for kind, tok := range kinds {
		for _, line := range [][2]string{{words, words}, {syllables, syllables}, {bytes, bytes}, {words, bytes}, {bytes, words}} {
			text := strings.Repeat(line[0], n/2/len(line[0])) + strings.Repeat(line[1], n/2/len(line[1]))
			path := filepath.Join(t.TempDir(), "text")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
			size := int64(len(text))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p, err := passages(Source{Files: []string{path}})
			require.NoError(t, err)
			ids, err := Encoding{}.Encode(tok, p)
			require.NoError(t, err)
			runtime.ReadMemStats(&after)
			all := int64(after.TotalAlloc - before.TotalAlloc)
			t.Logf("%s: %.2f bytes a token, %.2f bytes allocated for each", kind, float64(size)/float64(len(ids)), float64(all)/float64(size))
			require.LessOrEqual(t, all, Memory(size), "%s: %q", kind, line)
		}
	}
}
