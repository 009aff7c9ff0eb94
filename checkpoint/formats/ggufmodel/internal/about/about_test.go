package about

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
)

// What llama.cpp's converter finds in the model card and in generation_config.json.
func TestGeneral(t *testing.T) {
	for _, c := range []struct {
		name, card, generation string
		weights                int64
		want                   map[string]any
	}{
		{"nothing", "", "", 0, map[string]any{"name": "tiny"}},
		{"no front matter", "# Tiny\n---\nlicense: mit\n---\n", "", 134_515_008, map[string]any{"name": "tiny", "size_label": "135M"}},
		{"not YAML", "---\n[\n---\n", "", 1_100_000_000, map[string]any{"name": "tiny", "size_label": "1.1B"}},
		{
			"all", "---\r\nlicense: apache-2.0\nlanguage:\n- en\n- no\ntags: [chat, \"tiny\"]\npipeline_tag: text-generation\nmodel_name: Tiny One\nmodel_creator: Ann\nlicense_link:\n---\ntext",
			`{"temperature": 0.6, "top_k": 20, "top_p": 1, "repetition_penalty": 1.1, "min_p": null, "mirostat": 1.5}`, 7_000_000,
			map[string]any{
				"name": "Tiny One", "author": "Ann", "size_label": "7.0M", "license": "apache-2.0", "languages": []string{"en", "no"},
				"tags": []string{"chat", "tiny", "text-generation"}, "sampling.temp": float32(0.6), "sampling.top_k": int32(20),
				"sampling.top_p": float32(1), "sampling.penalty_repeat": float32(1.1),
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := fstest.MapFS{}
			if c.card != "" {
				files["README.md"] = &fstest.MapFile{Data: []byte(c.card)}
			}
			if c.generation != "" {
				files["generation_config.json"] = &fstest.MapFile{Data: []byte(c.generation)}
			}
			kv, err := OfFolder(files, "tiny", c.weights)
			require.NoError(t, err)
			got := map[string]any{}
			for _, e := range kv {
				got[e.Key[len(keyGeneral):]] = e.Value
			}
			require.Equal(t, c.want, got)
		})
	}
	_, err := OfFolder(fstest.MapFS{"generation_config.json": {Data: []byte("{")}}, "tiny", 0)
	require.ErrorContains(t, err, "generation_config.json")
}

// TestFromHub: a snapshot is called what the model is, and says where it is from.
func TestFromHub(t *testing.T) {
	kv, err := OfFolder(fstest.MapFS{}, "cache/models--org--Tiny-1/snapshots/0123abc", 0)
	require.NoError(t, err)
	require.Equal(t, []gguf.KV{
		{Key: "general.name", Value: "Tiny-1"}, {Key: "general.source.url", Value: "https://huggingface.co/org/Tiny-1/tree/0123abc"},
		{Key: "general.source.repo_url", Value: "https://huggingface.co/org/Tiny-1"},
	}, kv)
}

// What a file says of itself stays when it is rewritten, but for what is new.
func TestGeneralOfFile(t *testing.T) {
	kv := []gguf.KV{
		{Key: "general.architecture", Value: "llama"}, {Key: "general.file_type", Value: uint32(3)}, {Key: "general.name", Value: "Tiny One"},
		{Key: "general.license", Value: "mit"}, {Key: "general.sampling.top_k", Value: int32(3)}, {Key: "llama.block_count", Value: uint32(1)},
	}
	path := t.TempDir() + "/x.gguf"
	w, err := gguf.Create(path, kv, nil)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	f, err := gguf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []gguf.KV{kv[2], kv[3], kv[4]}, OfFile(f, "x.gguf"))
}
