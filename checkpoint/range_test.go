package checkpoint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
)

// embeddedCopy copies the embedded model and sets elements of its tensors.
func embeddedCopy(t *testing.T, elements map[string]float64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("..", "testdata", "tinyllama-2m"))))
	for tensor, v := range elements {
		poison(t, dir, tensor, 5, v)
	}
	return dir
}

// TestGGUFRange: what does not fit the type that a tensor has in GGUF gets a
// larger one.
func TestGGUFRange(t *testing.T) {
	const name, other = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
	src := openModel(t, embeddedCopy(t, map[string]float64{
		"model.embed_tokens.weight": 1e5, "model.layers.2.mlp.up_proj.weight": -3e38, name + ".weight": -70000,
	}))
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out.gguf"), Source: src, Format: ggufmodel.Format{}, Layers: []layout.Layer{{Name: name}, {Name: other}}}
	w, err := Create(o)
	require.NoError(t, err)
	defer w.Close()
	weights := map[string]*quant.Weight{}
	for _, l := range o.Layers {
		m, err := src.Matrix(l.Name + ".weight")
		require.NoError(t, err)
		weights[l.Name], err = quant.RTN{}.Quantize(t.Context(), m, quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16Short}, nil)
		require.NoError(t, err)
		require.NoError(t, w.Put(l.Name, weights[l.Name], nil))
	}
	require.NoError(t, w.Finish(t.Context()))

	f, err := gguf.Open(o.Out)
	require.NoError(t, err)
	defer f.Close()
	types := map[string]gguf.Type{}
	for _, info := range f.Tensors() {
		types[info.Name] = info.Type
	}
	require.Equal(t, gguf.BF16, types["token_embd.weight"])
	require.Equal(t, gguf.BF16, types["blk.2.ffn_up.weight"])
	require.Equal(t, gguf.F16, types["blk.2.ffn_gate.weight"])
	require.Equal(t, gguf.Q5_0, types["blk.0.attn_q.weight"])
	require.Equal(t, gguf.Q4_1, types["blk.1.attn_q.weight"])
	back := openModel(t, o.Out)
	for layer, q := range weights {
		m, err := back.Matrix(layer + ".weight")
		require.NoError(t, err)
		require.Equal(t, q.Dequantize().Data, m.Data, layer)
	}
	for _, tensor := range []string{"model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight"} {
		want, err := src.Matrix(tensor)
		require.NoError(t, err)
		got, err := back.Matrix(tensor)
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data, tensor)
	}
}

// TestGGUFHeaderNumbers: numbers that the header cannot say are refused before
// anything is made.
func TestGGUFHeaderNumbers(t *testing.T) {
	for key, value := range map[string]string{
		"max_position_embeddings": "5000000000", "rms_norm_eps": "1e-60", "rope_theta": "1e39",
	} {
		dir := embeddedCopy(t, nil)
		path := filepath.Join(dir, "config.json")
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		o, err := layout.ParseObject(data)
		require.NoError(t, err)
		o.Set(key, []byte(value))
		require.NoError(t, os.WriteFile(path, o.Bytes(), 0o666))
		out := filepath.Join(t.TempDir(), "out.gguf")
		_, err = Create(WriterOptions{Out: out, Source: openModel(t, dir), Format: ggufmodel.Format{}, Layers: []layout.Layer{{Name: "model.layers.0.self_attn.q_proj"}}})
		require.ErrorIs(t, err, layout.ErrUnsupported, key)
		require.True(t, strings.Contains(err.Error(), "GGUF cannot say"), err)
		require.Empty(t, sortedNames(t, filepath.Dir(out)))
	}
}
