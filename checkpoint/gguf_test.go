package checkpoint

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// ggufListings are the schemes of testdata/gguf. The bytes there were written
// from the definition of the blocks by a script of its own, and dequantized by
// llama.cpp's gguf-py to the weights that are meant.
var ggufListings = []struct {
	file string
	s    quant.Scheme
}{
	{"2bit_sym_q4_0", quant.Scheme{Bits: 2, Symmetric: true}},
	{"3bit_sym_q4_0", quant.Scheme{Bits: 3, Symmetric: true}},
	{"4bit_sym_q4_0", quant.Scheme{Bits: 4, Symmetric: true}},
	{"5bit_sym_q5_0", quant.Scheme{Bits: 5, Symmetric: true}},
	{"6bit_sym_q8_0", quant.Scheme{Bits: 6, Symmetric: true}},
	{"7bit_sym_q8_0", quant.Scheme{Bits: 7, Symmetric: true}},
	{"8bit_sym_q8_0", quant.Scheme{Bits: 8, Symmetric: true}},
	{"2bit_asym_q4_0", quant.Scheme{Bits: 2}},
	{"3bit_asym_q4_0", quant.Scheme{Bits: 3}},
	{"4bit_asym_q4_1", quant.Scheme{Bits: 4, ScaleType: quant.F16Short}},
	{"4bit_asym_q5_0", quant.Scheme{Bits: 4}},
	{"5bit_asym_q8_0", quant.Scheme{Bits: 5}},
	{"6bit_asym_q8_0", quant.Scheme{Bits: 6}},
	{"7bit_asym_q8_0", quant.Scheme{Bits: 7}},
}

func TestGGUFListings(t *testing.T) {
	for _, c := range ggufListings {
		t.Run(c.file, func(t *testing.T) {
			c.s.GroupSize = 32
			w := formattest.ListingWeight(3, 64, c.s)
			if c.s.Symmetric {
				for i := range w.Zeros {
					w.Zeros[i] = 1 << (c.s.Bits - 1)
				}
			}
			l := layout.LayerOf("lm_head", w)
			require.NoError(t, GGUF{}.Check(l))
			typ := ggufBlock(c.s)
			data, err := packGGUF(w, typ, nil)
			require.NoError(t, err)
			require.Equal(t, formattest.ReadListing(t, filepath.Join("gguf", c.file+".txt"))[0].Data, data)

			// The block type's own reading gives the weight.
			require.True(t, strings.HasSuffix(c.file, strings.ToLower(typ.String())))
			got := make([]float32, 3*64)
			require.NoError(t, typ.Decode(got, data))
			require.Equal(t, w.Dequantize().Data, got)
		})
	}
}

func TestGGUFRefuses(t *testing.T) {
	base := layout.Layer{
		Name: "model.layers.3.mlp.up_proj", Out: 64, In: 256, DType: safetensors.F16,
		Scheme: quant.Scheme{Bits: 4, GroupSize: 128, Symmetric: true},
	}
	formattest.CheckRefusals(t, GGUF{}, base, []formattest.Refusal{
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "axis oc"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "row or input scales"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "row or input scales"},
		{Name: "group index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "static groups"},
		{Name: "inputs", Set: func(l *layout.Layer) { l.In, l.Scheme.GroupSize = 172, quant.WholeLine }, Want: "172 inputs"},
		{Name: "group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 16 }, Want: "group size 16"},
		{Name: "group of no blocks", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 100 }, Want: "group size 100"},
		{Name: "scales", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "half-float"},
		{Name: "asymmetric 8", Set: func(l *layout.Layer) { l.Scheme.Bits, l.Scheme.Symmetric = 8, false }, Want: "symmetric grid"},
		{Name: "OPT", Set: func(l *layout.Layer) { l.Name = "model.decoder.layers.0.fc1" }, Want: "llama, qwen2 or qwen3"},
		{Name: "experts", Set: func(l *layout.Layer) { l.Name = "model.layers.0.block_sparse_moe.experts.0.w1" }, Want: "llama, qwen2 or qwen3"},
		{Name: "fused", Set: func(l *layout.Layer) { l.Name = "model.layers.0.self_attn.qkv_proj" }, Want: "llama, qwen2 or qwen3"},
	})
	for _, ok := range []func(l *layout.Layer){
		func(l *layout.Layer) { l.Name = "lm_head" },
		func(l *layout.Layer) { l.Scheme.GroupSize = quant.WholeLine },
		func(l *layout.Layer) { l.Scheme.GroupSize = 96 }, // a short last group of whole blocks
		func(l *layout.Layer) { l.Scheme.GroupSize = 1000 },
		func(l *layout.Layer) { l.Scheme.Bits, l.Scheme.Symmetric = 7, false },
		func(l *layout.Layer) { l.Scheme.Bits = 8 },
		func(l *layout.Layer) { l.Bias = true },
	} {
		l := base
		ok(&l)
		require.NoError(t, GGUF{}.Check(l))
	}

	// What only the weight shows.
	s := quant.Scheme{Bits: 4, GroupSize: 32}
	w := formattest.RandomWeight(1, 4, 64, s, false, false)
	w.Scales[3] = 0.1
	_, err := packGGUF(w, ggufBlock(w.Scheme), nil)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, "row 1: scale 0.1")
	s.ScaleType = quant.F16Short
	w = formattest.RandomWeight(1, 4, 64, s, false, false)
	w.Scales[2], w.Zeros[2] = 127.0/128+1.0/256, 7 // 8 significant bits
	_, err = packGGUF(w, ggufBlock(w.Scheme), nil)
	require.NoError(t, err)
	w.Scales[2] = tensor.RoundF16(0.1)
	_, err = packGGUF(w, ggufBlock(w.Scheme), nil)
	require.ErrorContains(t, err, "f16short")
	w = formattest.RandomWeight(1, 4, 64, quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}, false, false)
	w.Zeros[0] = 0 // codes up to 15 above it
	_, err = packGGUF(w, ggufBlock(w.Scheme), nil)
	require.ErrorContains(t, err, "does not fit Q4_0")
}

func TestGGUFConfig(t *testing.T) {
	good := ggufTestConfig("llama", nil)
	for _, c := range []struct {
		name string
		g    GGUF
		edit map[string]any
		want string
	}{
		{name: "good"},
		{name: "architecture", edit: map[string]any{"model_type": "opt"}, want: "llama, mistral, qwen2 and qwen3"},
		{name: "rope", edit: map[string]any{"rope_scaling": map[string]any{"type": "yarn", "factor": 4.0}}, want: "yarn"},
		{name: "activation", edit: map[string]any{"hidden_act": "gelu"}, want: "gelu"},
		{name: "context", edit: map[string]any{"max_position_embeddings": nil}, want: "max_position_embeddings"},
		{name: "qwen3 bias", edit: map[string]any{"model_type": "qwen3", "attention_bias": true}, want: "o_proj"},
		{name: "dense type", g: GGUF{Dense: safetensors.F64}, want: "F64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := maps.Clone(good)
			maps.Copy(config, c.edit)
			data, err := json.Marshal(config)
			require.NoError(t, err)
			err = c.g.CheckModel(data)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func ggufTestConfig(modelType string, more map[string]any) map[string]any {
	c := map[string]any{
		"model_type": modelType, "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"tie_word_embeddings": true, "torch_dtype": "float16", "bos_token_id": 1023, "eos_token_id": 1023,
	}
	maps.Copy(c, more)
	return c
}

// ggufFolder writes a small random model with the tokenizer of the embedded one.
func ggufFolder(t testing.TB, config map[string]any, extra ...string) string {
	t.Helper()
	dir := t.TempDir()
	data, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ConfigFile), data, 0o600))
	for _, name := range []string{tokenizerFile, "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join("..", "testdata", "tinyllama-2m", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	c, err := llama.ParseConfig(data)
	require.NoError(t, err)
	var plan []safetensors.TensorInfo
	add := func(name string, shape ...int) {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: safetensors.F16, Shape: shape})
	}
	add(llama.EmbeddingName, c.Vocab, c.Hidden)
	for i := range c.Layers {
		p := llama.BlockPrefix(i)
		add(p+"input_layernorm.weight", c.Hidden)
		add(p+"post_attention_layernorm.weight", c.Hidden)
		if c.QKNorm {
			add(p+"self_attn.q_norm.weight", c.HeadDim)
			add(p+"self_attn.k_norm.weight", c.HeadDim)
		}
		for _, l := range c.Linears(i) {
			add(l.WeightName(), l.Out, l.In)
			if l.Bias {
				add(l.BiasName(), l.Out)
			}
		}
	}
	add(llama.FinalNormName, c.Hidden)
	if !c.Tied {
		add(llama.HeadName, c.Vocab, c.Hidden)
	}
	for _, name := range extra {
		add(name, 8)
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, p := range plan {
		v := make([]float32, p.Elements())
		for i := range v {
			v[i] = tensor.RoundF16(float32(rng.NormFloat64()))
		}
		require.NoError(t, w.WriteFloat32(p.Name, v))
	}
	require.NoError(t, w.Close())
	return dir
}

// writeGGUFModel quantizes linears of a folder and writes the file.
func writeGGUFModel(t testing.TB, src *Model, g GGUF, weights map[string]*quant.Weight) string {
	t.Helper()
	var layers []layout.Layer
	for name := range weights {
		layers = append(layers, layout.Layer{Name: name})
	}
	out := filepath.Join(t.TempDir(), "model.gguf")
	w, err := Create(WriterOptions{Out: out, Source: src, Format: g, Layers: layers})
	require.NoError(t, err)
	for name, q := range weights {
		require.NoError(t, w.Put(name, q, nil))
	}
	require.NoError(t, w.Finish(t.Context()))
	return out
}

// ggufSchemes are all kinds of grid that the format holds.
func ggufSchemes() []quant.Scheme {
	var list []quant.Scheme
	for i, c := range ggufListings {
		s := c.s
		s.GroupSize = []int{32, 64, quant.WholeLine}[i%3]
		list = append(list, s)
	}
	return list
}

// Every tensor of a model comes back as it was: dense ones, vectors, quantized
// ones with every block type, in every architecture.
func TestGGUFRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name   string
		config map[string]any
		g      GGUF
	}{
		{"llama", ggufTestConfig("llama", map[string]any{"attention_bias": true, "mlp_bias": true}), GGUF{}},
		{"llama untied BF16", ggufTestConfig("llama", map[string]any{"tie_word_embeddings": false}), GGUF{Dense: safetensors.F32}},
		{"llama Q8_0 embeddings", ggufTestConfig("llama", map[string]any{"tie_word_embeddings": false}), GGUF{Q8Embeddings: true}},
		{"llama3 scaling", ggufTestConfig("llama", map[string]any{"head_dim": 64, "rope_scaling": map[string]any{
			"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}), GGUF{}},
		{"linear scaling", ggufTestConfig("llama", map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": 2.5}}), GGUF{}},
		{"qwen2", ggufTestConfig("qwen2", nil), GGUF{}},
		{"qwen3", ggufTestConfig("qwen3", map[string]any{"head_dim": 32}), GGUF{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := ggufFolder(t, c.config)
			src := openModel(t, dir)
			config, err := llama.ParseConfig(src.Config())
			require.NoError(t, err)
			weights := map[string]*quant.Weight{}
			schemes := ggufSchemes()
			for i := range config.Layers {
				for _, l := range config.Linears(i) {
					s := schemes[len(weights)%len(schemes)]
					weights[l.Name] = formattest.RandomWeight(uint64(len(weights)), l.Out, l.In, s, false, false)
				}
			}
			delete(weights, "model.layers.1.self_attn.k_proj") // stays dense
			path := writeGGUFModel(t, src, c.g, weights)
			m := openModel(t, path)
			require.Equal(t, "gguf", m.Format().Name())

			back, err := llama.ParseConfig(m.Config())
			require.NoError(t, err)
			config.DType = back.DType
			require.Equal(t, config, back)
			require.NoError(t, llama.CheckShapes(back, m))

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
					d, err := m.dec.(layout.DenseDecoder).Matrix(base)
					require.NoError(t, err)
					require.Equal(t, q.Dequantize().Data, d.Data, name)
					fallthrough
				case len(shape) == 2:
					a, b := matrixOf(t, src, name), matrixOf(t, m, name)
					if q != nil {
						a = q.Dequantize()
					}
					if c.g.Q8Embeddings && q == nil && shape[0] == 1024 {
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
			again := writeGGUFModel(t, m, GGUF{}, layers)
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
		})
	}
}

func matrixOf(t testing.TB, m *Model, name string) *tensor.Matrix {
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
	src := openModel(t, ggufFolder(t, ggufTestConfig("llama", map[string]any{"num_hidden_layers": 1, "vocab_size": 1024})))
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
			if err := (GGUF{}).Check(layout.LayerOf(name, w)); err != nil {
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
		require.NoError(rt, GGUF{}.Write(t.Context(), path, src, layers, func(name string) (*quant.Weight, error) { return weights[name], nil }))
		m, err := Open(path)
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
	src := openModel(t, modelFolder(t, "tinyllama-2m"))
	m := openModel(t, writeGGUFModel(t, src, GGUF{Dense: safetensors.BF16}, nil))
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
	for _, name := range []string{tokenizerFile, "tokenizer_config.json"} {
		data, err := fs.ReadFile(m.Files(), name)
		require.NoError(t, err)
		require.True(t, json.Valid(data))
	}
	_, err := fs.Stat(m.Files(), "vocab.json")
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// What cannot be written is said before the file is there.
func TestGGUFAssembleRefuses(t *testing.T) {
	write := func(dir string, g GGUF) error {
		src, err := Open(dir)
		require.NoError(t, err)
		defer src.Close()
		out := filepath.Join(t.TempDir(), "out.gguf")
		w, err := Create(WriterOptions{Out: out, Source: src, Format: g})
		require.NoError(t, err)
		err = w.Finish(t.Context())
		require.NoFileExists(t, out)
		return err
	}
	require.ErrorContains(t, write(ggufFolder(t, ggufTestConfig("llama", nil), "model.extra.weight"), GGUF{}), `tensor "model.extra.weight"`)
	require.ErrorContains(t, write(ggufFolder(t, ggufTestConfig("llama", map[string]any{"vocab_size": 1000, "bos_token_id": 1, "eos_token_id": 1})), GGUF{}), "1024 tokens, but the model's vocabulary has 1000")
	dir := ggufFolder(t, ggufTestConfig("llama", nil))
	require.NoError(t, os.Remove(filepath.Join(dir, tokenizerFile)))
	require.ErrorContains(t, write(dir, GGUF{}), "holds its tokenizer")
	dir = ggufFolder(t, ggufTestConfig("llama", nil))
	data, err := json.Marshal(ggufTestConfig("llama", map[string]any{"intermediate_size": 128}))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, layout.ConfigFile), data, 0o600))
	require.ErrorContains(t, write(dir, GGUF{}), "shape [96 64], want [128 64]")
	// Known tensors that follow from the config are left out.
	src := openModel(t, ggufFolder(t, ggufTestConfig("llama", nil), "model.layers.0.self_attn.rotary_emb.inv_freq"))
	writeGGUFModel(t, src, GGUF{}, nil)
}

// A sliding window bounds the context, since the engine has none.
func TestGGUFContext(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufTestConfig("mistral", map[string]any{"sliding_window": 32})))
	m := openModel(t, writeGGUFModel(t, src, GGUF{}, nil))
	c, err := llama.ParseConfig(m.Config())
	require.NoError(t, err)
	require.Equal(t, "llama", c.ModelType)
	require.Equal(t, 32, c.MaxPosition)
	require.Nil(t, c.Windows)
}

func TestRotaryRows(t *testing.T) {
	// One head of 8 rows: pairs (0, 4), (1, 5), … become neighbours.
	var got []int
	for r := range 16 {
		got = append(got, interleaved(r, 8))
		require.Equal(t, r, halved(interleaved(r, 8), 8))
		require.Equal(t, r, interleaved(halved(r, 8), 8))
	}
	require.Equal(t, []int{0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15}, got)
	require.Equal(t, 4, rotaryRows("llama", "model.layers.0.self_attn.q_proj.weight", 4, 2))
	require.Equal(t, 2, rotaryRows("llama", "model.layers.0.self_attn.k_proj.bias", 4, 2))
	require.Zero(t, rotaryRows("llama", "model.layers.0.self_attn.v_proj.weight", 4, 2))
	require.Zero(t, rotaryRows("qwen2", "model.layers.0.self_attn.q_proj.weight", 4, 2))
}

func TestGGUFNames(t *testing.T) {
	for _, n := range ggufTensorNames(12) {
		got, ok := huggingFaceName(n[1], 12)
		require.True(t, ok, n[1])
		require.Equal(t, n[0], got)
	}
	for _, name := range []string{"", "blk", "blk.", "blk.0", "blk.0.", "blk.12.attn_q.weight", "blk.-1.attn_q.weight", "blk.01.attn_q.weight", "blk.+1.attn_q.weight", "blk.0.ffn_gate_exps.weight", "output"} {
		_, ok := huggingFaceName(name, 12)
		require.False(t, ok, name)
	}
}

// The factors of Llama 3.1 8B, from the published formula by hand: the 64
// frequencies of a head of 128.
func TestLlama3Factors(t *testing.T) {
	s := ropeScaling{"llama3", 8, 1, 4, 8192}
	f := llama3Factors(s, 500000, 128)
	require.Len(t, f, 64)
	require.EqualValues(t, 1, f[0])
	require.EqualValues(t, 1, f[28]) // 8192 * 500000^(-56/128) / 2π = 4.19 turns
	// 3.41 turns: smooth (3.41-1)/3 = 0.805
	require.InDelta(t, 1.2059, f[29], 2e-3)
	require.EqualValues(t, 8, f[63])
	require.EqualValues(t, 8, f[35]) // 0.9973 turns
	for _, c := range []struct {
		s     ropeScaling
		theta float64
		dim   int
	}{
		{s, 500000, 128},
		{ropeScaling{"llama3", 32, 1, 4, 8192}, 500000, 64},
		{ropeScaling{"llama3", 3, 2, 16, 8192}, 10000, 128},
	} {
		f := llama3Factors(c.s, c.theta, c.dim)
		found, ok := findLlama3(f, c.theta)
		require.True(t, ok)
		require.Equal(t, c.s.factor, found.factor)
		require.InEpsilon(t, c.s.lowFreq, found.lowFreq, 1e-3)
		require.InEpsilon(t, c.s.highFreq, found.highFreq, 1e-3)
		require.True(t, closeTo(llama3Factors(found, c.theta, c.dim), f))
	}
	_, ok := findLlama3([]float32{1, 5, 2, 8}, 10000)
	require.False(t, ok)
}

// Blocks with minima that are no multiples of their scale are read dense.
func TestGGUFInexactMinimum(t *testing.T) {
	src := openModel(t, ggufFolder(t, ggufTestConfig("llama", nil)))
	const name = "model.layers.0.mlp.down_proj"
	w := formattest.RandomWeight(1, 64, 96, quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16Short}, false, false)
	path := writeGGUFModel(t, src, GGUF{}, map[string]*quant.Weight{name: w})
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

func BenchmarkGGUFEncode(b *testing.B) {
	for _, bits := range []int{4, 5, 8} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			w := formattest.RandomWeight(1, 1024, 1024, quant.Scheme{Bits: bits, GroupSize: 128, Symmetric: true}, false, false)
			b.SetBytes(1024 * 1024)
			for b.Loop() {
				if _, err := packGGUF(w, ggufBlock(w.Scheme), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
