package arch_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// renamed shows weights under other names; those that are not listed are gone.
type renamed struct {
	program.Weights
	old map[string]string // by new name
}

func (r renamed) Has(name string) bool { _, ok := r.old[name]; return ok }
func (r renamed) Matrix(name string) (*tensor.Matrix, error) {
	return r.Weights.Matrix(r.old[name])
}
func (r renamed) Vector(name string) ([]float32, error) { return r.Weights.Vector(r.old[name]) }
func (r renamed) Rows(name string, i0, i1 int, dst []float32) ([]float32, error) {
	return r.Weights.Rows(r.old[name], i0, i1, dst)
}

func (r renamed) Shape(name string) ([]int, bool) {
	old, ok := r.old[name]
	if !ok {
		return nil, false
	}
	return r.Weights.Shape(old)
}

func (r renamed) Names() []string {
	var all []string
	for name := range r.old {
		all = append(all, name)
	}
	return all
}

// without strips a prefix and puts another in front.
func without(prefix, with, head string) func(string) string {
	return func(name string) string {
		if name == "lm_head.weight" {
			return head
		}
		return with + strings.TrimPrefix(name, prefix)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		name, dir string
		rename    func(string) string
		err       string
	}{
		{"as it is", "llama-llama3", without("", "", "lm_head.weight"), ""},
		{"base model", "llama-llama3", without("model.", "", "lm_head.weight"), ""},
		{"images, transformers 5", "llama-llama3", without("model.", "model.language_model.", "lm_head.weight"), ""},
		{"images, transformers 4", "llama-llama3", without("model.", "language_model.model.", "language_model.lm_head.weight"), ""},
		{"head in the model", "llama-llama3", without("model.", "model.", "model.lm_head.weight"), ""},
		{"tied", "qwen2", without("model.", "", ""), ""},
		{"tied, only the head", "qwen2", func(name string) string {
			if name == "model.embed_tokens.weight" {
				return "lm_head.weight"
			}
			return name
		}, ""},
		{"tied, only the head, images", "qwen2", func(name string) string {
			if name == "model.embed_tokens.weight" {
				return "language_model.lm_head.weight"
			}
			return "language_model." + name
		}, ""},
		{"elsewhere", "llama-llama3", without("model.", "encoder.", "lm_head.weight"),
			`tensor "model.embed_tokens.weight": missing, also under other prefixes; there are 35 tensors: encoder.embed_tokens.weight, `},
		{"no head", "llama-llama3", without("model.", "model.", ""),
			`tensor "lm_head.weight": missing, and "tie_word_embeddings" is false`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join("../../../testdata/architectures", c.dir)
			config, err := os.ReadFile(filepath.Join(dir, "config.json"))
			require.NoError(t, err)
			folder, err := safetensors.OpenFolder(dir)
			require.NoError(t, err)
			defer folder.Close()
			w := renamed{fileWeights{folder}, map[string]string{}}
			for _, name := range folder.Names() {
				if n := c.rename(name); n != "" {
					w.old[n] = name
				}
			}
			if c.err != "" {
				m, err := arch.ParseConfig(config)
				require.NoError(t, err)
				require.ErrorContains(t, m.Fit(w), c.err)
				return
			}
			ids := [][]int32{{1, 2, 3, 4, 5, 6, 7, 8}}
			want, _ := logits(t, dir, config, ids)
			got, m := run(t, w, config, ids, nil)
			require.Equal(t, want.Data, got.Data)
			for _, l := range m.Linears() {
				require.True(t, w.Has(l.WeightName()), l.Name)
			}
		})
	}
}

// TestUntied holds that a head that differs from the embedding is taken although
// the configuration says that the two are one.
func TestUntied(t *testing.T) {
	dir := "../../../testdata/architectures/llama-llama3"
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	ids := [][]int32{{1, 2, 3, 4}}
	want, _ := logits(t, dir, data, ids)
	var config map[string]any
	require.NoError(t, json.Unmarshal(data, &config))
	config["tie_word_embeddings"] = true
	data, err = json.Marshal(config)
	require.NoError(t, err)
	got, _ := logits(t, dir, data, ids)
	require.Equal(t, want.Data, got.Data)
}
