package ggufmodel

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// listings are the schemes of testdata/gguf. The bytes there were written
// from the definition of the blocks by a script of its own, and dequantized by
// llama.cpp's gguf-py to the weights that are meant.
var listings = []struct {
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
	for _, c := range listings {
		t.Run(c.file, func(t *testing.T) {
			c.s.GroupSize = 32
			w := formattest.ListingWeight(3, 64, c.s)
			if c.s.Symmetric {
				for i := range w.Zeros {
					w.Zeros[i] = 1 << (c.s.Bits - 1)
				}
			}
			l := layout.LayerOf("lm_head", w)
			require.NoError(t, Format{}.Check(l))
			typ := blockType(c.s)
			data, err := packRows(w, typ, nil)
			require.NoError(t, err)
			require.Equal(t, formattest.ReadListing(t, c.file+".txt")[0].Data, data)

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
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "axis oc"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "row or input scales"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "row or input scales"},
		{Name: "group index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "static groups"},
		{Name: "inputs", Set: func(l *layout.Layer) { l.In, l.Scheme.GroupSize = 172, quant.WholeLine }, Want: "172 inputs"},
		{Name: "group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 16 }, Want: "group size 16"},
		{Name: "group of no blocks", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 100 }, Want: "group size 100"},
		{Name: "scales", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "half-float"},
		{Name: "asymmetric 8", Set: func(l *layout.Layer) { l.Scheme.Bits, l.Scheme.Symmetric = 8, false }, Want: "symmetric grid"},
		{Name: "OPT", Set: func(l *layout.Layer) { l.Name = "model.decoder.layers.0.fc9" }, Want: "no linear"},
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
		require.NoError(t, Format{}.Check(l))
	}

	// What only the weight shows.
	s := quant.Scheme{Bits: 4, GroupSize: 32}
	w := formattest.RandomWeight(1, 4, 64, s, false, false)
	w.Scales[3] = 0.1
	_, err := packRows(w, blockType(w.Scheme), nil)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, "row 1: scale 0.1")
	s.ScaleType = quant.F16Short
	w = formattest.RandomWeight(1, 4, 64, s, false, false)
	w.Scales[2], w.Zeros[2] = 127.0/128+1.0/256, 7 // 8 significant bits
	_, err = packRows(w, blockType(w.Scheme), nil)
	require.NoError(t, err)
	w.Scales[2] = tensor.RoundF16(0.1)
	_, err = packRows(w, blockType(w.Scheme), nil)
	require.ErrorIs(t, err, gguf.ErrRange)
	w = formattest.RandomWeight(1, 4, 64, quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}, false, false)
	w.Zeros[0] = 0 // codes up to 15 above it
	_, err = packRows(w, blockType(w.Scheme), nil)
	require.ErrorContains(t, err, "does not fit Q4_0")
}

func TestGGUFConfig(t *testing.T) {
	good := SmallConfig("llama", nil)
	for _, c := range []struct {
		name string
		g    Format
		edit map[string]any
		want string
	}{
		{name: "good"},
		{name: "architecture", edit: map[string]any{"model_type": "opt"}, want: "llama, mistral, qwen2, qwen3"},
		{name: "rope", edit: map[string]any{"rope_scaling": map[string]any{"type": "dynamic", "factor": 4.0}}, want: "dynamic"},
		{name: "activation", edit: map[string]any{"hidden_act": "gelu"}, want: "gelu"},
		{name: "context", edit: map[string]any{"max_position_embeddings": nil}, want: "max_position_embeddings"},
		{name: "qwen3 bias", edit: map[string]any{"model_type": "qwen3", "attention_bias": true}, want: "attention_bias"},
		{name: "dense type", g: Format{Dense: safetensors.F64}, want: "F64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := maps.Clone(good)
			maps.Copy(config, c.edit)
			data, err := json.Marshal(config)
			require.NoError(t, err)
			if c.g.Dense != "" {
				err = c.g.CheckModel(nil)
			} else {
				_, err = parseModel(data)
			}
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}

func SmallConfig(modelType string, more map[string]any) map[string]any {
	c := map[string]any{
		"model_type": modelType, "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
		"tie_word_embeddings": true, "torch_dtype": "float16", "bos_token_id": 1023, "eos_token_id": 1023,
	}
	maps.Copy(c, more)
	return c
}

// ggufSchemes are all kinds of grid that the format holds.
func Schemes() []quant.Scheme {
	var list []quant.Scheme
	for i, c := range listings {
		s := c.s
		s.GroupSize = []int{32, 64, quant.WholeLine}[i%3]
		list = append(list, s)
	}
	return list
}

// Each tensor that a model has is in the file once, under a name of its own, and
// rows that change places only change places.
func TestGGUFNames(t *testing.T) {
	for _, modelType := range []string{"llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "granite", "stablelm", "gpt_neox", "bloom", "mixtral", "qwen2_moe", "mpt", "gpt_bigcode", "dots1", "glm4_moe", "minimax_m2", "ernie4_5_moe", "deepseek_v3", "mamba"} {
		data, err := json.Marshal(SmallConfig(modelType, map[string]any{
			"num_key_value_heads": 4, "num_local_experts": 8, "num_experts": 8, "n_routed_experts": 8, "topk_group": 2, "n_group": 2, "moe_num_experts": 8,
		}))
		require.NoError(t, err)
		m, err := arch.ParseConfig(data)
		require.NoError(t, err)
		known := knownTensors(m)
		parts := map[string]bool{}
		for _, g := range known {
			for _, name := range g.Parts {
				require.False(t, parts[name], name)
				parts[name] = true
			}
			seen := map[int]bool{}
			for _, r := range inverted(g.From) {
				seen[r] = true
			}
			require.Len(t, seen, len(g.From))
		}
		for _, s := range m.Tensors() {
			require.True(t, parts[s.Name], s.Name)
		}
	}
}

// One head of 8 rows: pairs (0, 4), (1, 5), … become neighbours.
func TestRotaryRows(t *testing.T) {
	data, err := json.Marshal(SmallConfig("llama", map[string]any{"head_dim": 8}))
	require.NoError(t, err)
	m, err := arch.ParseConfig(data)
	require.NoError(t, err)
	known := knownTensors(m)
	require.Equal(t, []int{0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15}, inverted(known["blk.0.attn_k.weight"].From))
	require.Len(t, known["blk.0.attn_q.bias"].From, 32)
	require.Nil(t, known["blk.0.attn_v.weight"].From)
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

func BenchmarkGGUFEncode(b *testing.B) {
	for _, bits := range []int{4, 5, 8} {
		b.Run(fmt.Sprint(bits), func(b *testing.B) {
			w := formattest.RandomWeight(1, 1024, 1024, quant.Scheme{Bits: bits, GroupSize: 128, Symmetric: true}, false, false)
			b.SetBytes(1024 * 1024)
			for b.Loop() {
				if _, err := packRows(w, blockType(w.Scheme), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
