package ggufmodel_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/decodertest"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// ggufFolder writes a small random model with the tokenizer of the embedded one.
func ggufFolder(t testing.TB, config map[string]any, extra ...string) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ConfigFile), data, 0o600))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(formattest.ModelFolder(t, "tinyllama-2m"), name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	decodertest.WriteRandom(t, dir, safetensors.F16, 0.05, extra...)
	return dir
}

// writeGGUFModel quantizes linears of a folder and writes the file.
func writeGGUFModel(t testing.TB, src *checkpoint.Model, g ggufmodel.Format, weights map[string]*quant.Weight) string {
	t.Helper()
	var layers []layout.Layer
	for name := range weights {
		layers = append(layers, layout.Layer{Name: name})
	}
	out := filepath.Join(t.TempDir(), "model.gguf")
	w, err := checkpoint.Create(checkpoint.WriterOptions{Out: out, Source: src, Format: g, Layers: layers})
	require.NoError(t, err)
	for name, q := range weights {
		require.NoError(t, w.Put(name, q, nil))
	}
	require.NoError(t, w.Finish(t.Context()))
	return out
}

// Every tensor of a model comes back as it was: dense ones, vectors, quantized
// ones with every block type, in every architecture.
func TestGGUFRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name   string
		config map[string]any
		g      ggufmodel.Format
	}{
		{"llama", ggufmodel.SmallConfig("llama", map[string]any{"attention_bias": true, "mlp_bias": true}), ggufmodel.Format{}},
		{"llama untied BF16", ggufmodel.SmallConfig("llama", map[string]any{"tie_word_embeddings": false}), ggufmodel.Format{Dense: safetensors.F32}},
		{"llama Q8_0 embeddings", ggufmodel.SmallConfig("llama", map[string]any{"tie_word_embeddings": false}), ggufmodel.Format{Q8Embeddings: true}},
		{"llama3 scaling", ggufmodel.SmallConfig("llama", map[string]any{"head_dim": 64, "rope_scaling": map[string]any{
			"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}), ggufmodel.Format{}},
		{"linear scaling", ggufmodel.SmallConfig("llama", map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": 2.5}}), ggufmodel.Format{}},
		{"qwen2", ggufmodel.SmallConfig("qwen2", nil), ggufmodel.Format{}},
		{"qwen3", ggufmodel.SmallConfig("qwen3", map[string]any{"head_dim": 32}), ggufmodel.Format{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := ggufFolder(t, c.config)
			src := openModel(t, dir)
			config, err := arch.ParseConfig(src.Config())
			require.NoError(t, err)
			weights := map[string]*quant.Weight{}
			schemes := ggufmodel.Schemes()
			for _, l := range config.Linears() {
				s := schemes[len(weights)%len(schemes)]
				weights[l.Name] = formattest.RandomWeight(uint64(len(weights)), l.Out, l.In, s, false, false)
			}
			delete(weights, "model.layers.1.self_attn.k_proj") // stays dense
			path := writeGGUFModel(t, src, c.g, weights)
			m := openModel(t, path)
			require.Equal(t, "gguf", m.Format().Name())
			opened, err := ggufmodel.Format{}.Read(path)
			require.NoError(t, err)
			defer opened.Source.Close()

			back, err := arch.ParseConfig(m.Config())
			require.NoError(t, err)
			config.DType = back.DType
			require.Equal(t, config.Config, back.Config)
			require.NoError(t, back.CheckShapes(m))

			requireSameTensors(t, src, m, opened.Decoder.(layout.DenseDecoder), weights, c.g.Q8Embeddings)

			// Written again it is the same file, whatever the number of workers.
			layers := map[string]*quant.Weight{}
			for name := range weights {
				if layers[name], err = m.Weight(name); err != nil {
					t.Fatal(err)
				}
				if weights[name].Scheme.Bits == 4 && weights[name].Scheme.ScaleType == quant.F16Short {
					layers[name].Scheme.ScaleType = quant.F16Short
				}
			}
			if head, err := m.Weight("lm_head"); err == nil {
				layers["lm_head"] = head
			}
			requireSameFile(t, path, writeGGUFModel(t, m, ggufmodel.Format{}, layers))
		})
	}
}

// requireSameTensors wants m, as decoder gives it too, to have the tensors of src,
// those of weights as they were quantized.
func requireSameTensors(t *testing.T, src, m *checkpoint.Model, decoder layout.DenseDecoder, weights map[string]*quant.Weight, q8 bool) {
	t.Helper()
	want := slices.Sorted(slices.Values(src.Source().Names()))
	require.Equal(t, want, slices.Sorted(slices.Values(m.Source().Names())))
	for _, name := range want {
		base, _ := layout.CutWeight(name)
		shape, _ := src.Shape(name)
		got, ok := m.Shape(name)
		require.True(t, ok)
		require.Equal(t, shape, got, name)
		switch q := weights[base]; {
		case q != nil:
			w, err := m.Weight(base)
			require.NoError(t, err, name)
			require.Equal(t, q.Dequantize().Data, w.Dequantize().Data, name)
			d, err := decoder.Matrix(base)
			require.NoError(t, err)
			require.Equal(t, q.Dequantize().Data, d.Data, name)
			fallthrough
		case len(shape) == 2:
			a, b := matrixOf(t, src, name), matrixOf(t, m, name)
			if q != nil {
				a = q.Dequantize()
			}
			if q8 && q == nil && shape[0] == 1024 {
				requireWithin(t, a, b, 127)
				continue
			}
			require.Equal(t, a.Data, b.Data, name)
		default:
			a, err := src.Vector(name)
			require.NoError(t, err)
			b, err := m.Vector(name)
			require.NoError(t, err)
			require.Equal(t, a, b, name)
		}
	}
}

// requireSameFile wants two GGUF files to differ in no more than the model's name.
func requireSameFile(t *testing.T, path, again string) {
	t.Helper()
	a, err := gguf.Open(path)
	require.NoError(t, err)
	defer a.Close()
	b, err := gguf.Open(again)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, a.Tensors(), b.Tensors())
	for _, tn := range a.Tensors() {
		x, y := make([]byte, tn.Bytes()), make([]byte, tn.Bytes())
		require.NoError(t, a.ReadAt(tn.Name, x, 0))
		require.NoError(t, b.ReadAt(tn.Name, y, 0))
		require.Equal(t, x, y, tn.Name)
	}
	for i, kv := range a.KV() {
		if kv.Key != "general.name" { // the folder's
			require.Equal(t, kv, b.KV()[i])
		}
	}
}

func matrixOf(t testing.TB, m *checkpoint.Model, name string) *tensor.Matrix {
	t.Helper()
	x, err := m.Matrix(name)
	require.NoError(t, err)
	return x
}

// requireWithin checks that b is a with 8-bit codes in blocks of 32.
func requireWithin(t testing.TB, a, b *tensor.Matrix, steps float32) {
	t.Helper()
	for r := range a.Rows {
		for j := 0; j < a.Cols; j += 32 {
			var most float32
			for _, v := range a.Row(r)[j : j+32] {
				most = max(most, v, -v)
			}
			for i := j; i < j+32; i++ {
				require.InDelta(t, a.At(r, i), b.At(r, i), float64(most/steps*0.57))
			}
		}
	}
}

// Any weight that Check lets pass comes back exactly, q rows in their places.
func TestGGUFAnyWeight(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", map[string]any{"num_hidden_layers": 1, "vocab_size": 1024})))
	names := []string{"model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"}
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		weights := map[string]*quant.Weight{}
		for _, name := range names {
			s := quant.Scheme{
				Bits:      rapid.IntRange(2, 8).Draw(rt, "bits"),
				GroupSize: rapid.SampledFrom([]int{quant.WholeLine, 32, 64, 128}).Draw(rt, "group"),
				Symmetric: rapid.Bool().Draw(rt, "sym"),
				ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F16Short}).Draw(rt, "scale"),
			}
			shape, _ := src.Shape(name + layout.WeightSuffix)
			w := formattest.RandomWeight(rapid.Uint64().Draw(rt, "seed"), shape[0], shape[1], s, false, false)
			if err := (ggufmodel.Format{}).Check(layout.LayerOf(name, w)); err != nil {
				require.ErrorIs(rt, err, layout.ErrUnsupported)
				rt.Skip(err.Error())
			}
			weights[name] = w
		}
		var layers []layout.Layer
		for _, name := range names {
			layers = append(layers, layout.LayerOf(name, weights[name]))
		}
		path := filepath.Join(dir, "x.gguf")
		require.NoError(rt, ggufmodel.Format{}.Write(t.Context(), path, src, layers, func(name string) (*quant.Weight, error) { return weights[name], nil }))
		m, err := checkpoint.Open(path)
		require.NoError(rt, err)
		defer m.Close()
		for name, w := range weights {
			back, err := m.Weight(name)
			require.NoError(rt, err)
			require.Equal(rt, w.Dequantize().Data, back.Dequantize().Data)
			require.Equal(rt, w.Dequantize().Data, matrixOf(t, m, name+layout.WeightSuffix).Data)
		}
	})
}

// The embedded model as GGUF is the embedded model, to the last bit.
func TestGGUFEmbeddedModel(t *testing.T) {
	src := openModel(t, formattest.ModelFolder(t, "tinyllama-2m"))
	m := openModel(t, writeGGUFModel(t, src, ggufmodel.Format{Dense: safetensors.BF16}, nil))
	for _, s := range src.Dense() {
		d, ok := m.DType(s.Name)
		require.True(t, ok)
		if len(s.Shape) == 1 {
			require.Equal(t, safetensors.F32, d)
			continue
		}
		require.Equal(t, safetensors.BF16, d)
		require.Equal(t, matrixOf(t, src, s.Name).Data, matrixOf(t, m, s.Name).Data, s.Name)
	}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := fs.ReadFile(m.Files(), name)
		require.NoError(t, err)
		require.True(t, json.Valid(data))
	}
	_, err := fs.Stat(m.Files(), "vocab.json")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// What cannot be written is said before any work.
func TestGGUFAssembleRefuses(t *testing.T) {
	write := func(dir string, g ggufmodel.Format) error {
		src, err := checkpoint.Open(dir)
		require.NoError(t, err)
		defer src.Close()
		out := filepath.Join(t.TempDir(), "out.gguf")
		_, err = checkpoint.Create(checkpoint.WriterOptions{Out: out, Source: src, Format: g})
		require.Error(t, err)
		require.NoFileExists(t, out)
		require.NoDirExists(t, out+checkpoint.PartialSuffix)
		return err
	}
	require.ErrorContains(t, write(ggufFolder(t, ggufmodel.SmallConfig("llama", nil), "model.extra.weight"), ggufmodel.Format{}), `tensor "model.extra.weight"`)
	require.ErrorContains(t, write(ggufFolder(t, ggufmodel.SmallConfig("llama", map[string]any{"vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 1})), ggufmodel.Format{}), "vocab_size is 1000")
	dir := ggufFolder(t, ggufmodel.SmallConfig("llama", nil))
	require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json")))
	require.ErrorContains(t, write(dir, ggufmodel.Format{}), "holds its tokenizer")
	dir = ggufFolder(t, ggufmodel.SmallConfig("llama", nil))
	data, err := json.Marshal(ggufmodel.SmallConfig("llama", map[string]any{"intermediate_size": 128}))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ConfigFile), data, 0o600))
	require.ErrorContains(t, write(dir, ggufmodel.Format{}), "shape [96 64], want [128 64]")
	// Known tensors that follow from the config are left out.
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", nil), "model.layers.0.self_attn.rotary_emb.inv_freq"))
	writeGGUFModel(t, src, ggufmodel.Format{}, nil)
}

// A sliding window bounds the context, since the engine has none.
func TestGGUFContext(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("mistral", map[string]any{"sliding_window": 32})))
	m := openModel(t, writeGGUFModel(t, src, ggufmodel.Format{}, nil))
	c, err := arch.ParseConfig(m.Config())
	require.NoError(t, err)
	require.Equal(t, "llama", c.ModelType)
	require.Equal(t, 32, c.MaxPosition)
	require.Nil(t, c.Windows)
}

// Blocks with minima that are no multiples of their scale are read dense.
func TestGGUFInexactMinimum(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", nil)))
	const name = "model.layers.0.mlp.down_proj"
	w := formattest.RandomWeight(1, 64, 96, quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16Short}, false, false)
	path := writeGGUFModel(t, src, ggufmodel.Format{}, map[string]*quant.Weight{name: w})
	m := openModel(t, path)
	back, err := m.Weight(name)
	require.NoError(t, err)
	formattest.RequireSame(t, w, back)

	f, err := gguf.Open(path)
	require.NoError(t, err)
	tn, ok := f.Tensor("blk.0.ffn_down.weight")
	require.True(t, ok)
	require.Equal(t, gguf.Q4_1, tn.Type)
	block := make([]byte, 20)
	require.NoError(t, f.ReadAt(tn.Name, block, 0))
	require.NoError(t, f.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	at := strings.Index(string(data), string(block))
	require.Positive(t, at)
	data[at+2], data[at+3] = 0x01, 0x3c // the minimum: just above 1
	bad := filepath.Join(t.TempDir(), "bad.gguf")
	require.NoError(t, os.WriteFile(bad, data, 0o600))
	m = openModel(t, bad)
	_, err = m.Weight(name)
	require.ErrorIs(t, err, layout.ErrNotWeight)
	d := matrixOf(t, m, name+layout.WeightSuffix)
	require.Equal(t, w.Dequantize().Row(1), d.Row(1))
	require.NotEqual(t, w.Dequantize().Row(0), d.Row(0))

	// An infinite scale is neither.
	data[at], data[at+1] = 0, 0x7c
	require.NoError(t, os.WriteFile(bad, data, 0o600))
	_, err = m.Weight(name)
	require.Error(t, err)
	_, err = m.Matrix(name + layout.WeightSuffix)
	require.Error(t, err)
}

func openModel(t testing.TB, path string) *checkpoint.Model {
	t.Helper()
	m, err := checkpoint.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}
