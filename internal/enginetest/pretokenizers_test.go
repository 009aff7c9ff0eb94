package enginetest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/golden"
)

// The engine splits texts as the recorded ids say that the reader of GGUF is held to,
// by each kind of pre-tokenizer.
func TestPreTokenizers(t *testing.T) {
	engine(t)
	data, err := os.ReadFile(filepath.Join(golden.Root(), "checkpoint", "formats", "ggufmodel", "internal", "vocab", "testdata", "pretokenizers.json"))
	require.NoError(t, err)
	var k struct {
		Vocab, Merges, Texts []string
		Kinds                []struct {
			Names []string
			IDs   [][]int32
		}
	}
	require.NoError(t, json.Unmarshal(data, &k))
	types := make([]int32, len(k.Vocab))
	for i := range types {
		types[i] = 1
	}
	last := len(types) - 1
	types[last-1], types[last] = 3, 4 // control, user-defined
	var jobs []job
	for _, kind := range k.Kinds {
		path := filepath.Join(t.TempDir(), "vocabulary.gguf")
		w, err := gguf.Create(path, []gguf.KV{
			{Key: "general.architecture", Value: "llama"}, {Key: "llama.context_length", Value: uint32(8)}, {Key: "llama.embedding_length", Value: uint32(8)},
			{Key: "llama.block_count", Value: uint32(1)}, {Key: "llama.feed_forward_length", Value: uint32(8)}, {Key: "llama.attention.head_count", Value: uint32(1)},
			{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
			{Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: kind.Names[0]},
			{Key: "tokenizer.ggml.tokens", Value: k.Vocab}, {Key: "tokenizer.ggml.token_type", Value: types}, {Key: "tokenizer.ggml.merges", Value: k.Merges},
			{Key: "tokenizer.ggml.bos_token_id", Value: uint32(last - 1)}, {Key: "tokenizer.ggml.eos_token_id", Value: uint32(last - 1)},
		}, nil)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		jobs = append(jobs, job{Model: path, VocabOnly: true, Texts: k.Texts, Special: true, bare: true})
	}
	for i, a := range run(t, jobs...) {
		for n, s := range k.Texts {
			require.Equal(t, append([]int32{}, k.Kinds[i].IDs[n]...), append([]int32{}, a.IDs[n]...), "%s: %q", k.Kinds[i].Names[0], s)
		}
	}
}
