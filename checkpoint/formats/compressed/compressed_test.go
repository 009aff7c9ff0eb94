package compressed

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

var allBits = []int{2, 3, 4, 5, 6, 7, 8}

func TestCompressedTensorsListings(t *testing.T) {
	for _, b := range allBits {
		w := formattest.ListingWeight(6, 40, quant.Scheme{Bits: b, GroupSize: 20, MinZero: 1})
		listed := formattest.CheckListing(t, Format{}, fmt.Sprintf("%dbit.txt", b), w)
		require.Len(t, listed, 4)
	}
}

func TestCompressedTensorsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.IntRange(1, 40).Draw(t, "instep")
		l, w := formattest.DrawHeld(t, Format{}, allBits, []int{quant.WholeLine, in, 2 * in}, rapid.IntRange(1, 20).Draw(t, "outstep"), in, quant.OC)
		if w.Scheme.GroupSize != quant.WholeLine && w.Groups() > 1 && rapid.Bool().Draw(t, "act-order") {
			index := layout.ConsecutiveGroups(w.In, w.Scheme.GroupSize)
			w.GroupIndex = rapid.Permutation(index).Draw(t, "index")
			if slices.Equal(w.GroupIndex, index) {
				slices.Reverse(w.GroupIndex)
			}
			l.GroupIndex = true
		}
		formattest.CheckRoundTrip(t, Format{}, l, w)
	})
}

// olderPacking packs rows as compressed-tensors did before May 2026: whole
// codes in each word, from its lowest bit.
func olderPacking(codes []uint8, rows, n, bits int) []uint32 {
	perWord := 32 / bits
	words := (n + perWord - 1) / perWord
	out := make([]uint32, rows*words)
	for r := range rows {
		for i := range n {
			out[r*words+i/perWord] |= uint32(codes[r*n+i]) << (bits * (i % perWord))
		}
	}
	return out
}

func TestCompressedTensorsOlderPacking(t *testing.T) {
	for _, b := range allBits {
		for _, unpacked := range []bool{false, true} {
			const out, in, groups = 44, 96, 3
			w := formattest.RandomWeight(uint64(b), out, in, quant.Scheme{Bits: b, GroupSize: 32}, false, false)
			l := layout.LayerOf("x", w)
			tensors, err := Format{}.Encode(l, w)
			require.NoError(t, err)
			codes := make([]uint8, out*in)
			for r := range out {
				w.Line(codes[r*in:(r+1)*in], r)
			}
			packed := olderPacking(codes, out, in, b)
			tensors[0] = layout.Int32Tensor("x.weight_packed", packed, out, len(packed)/out)
			zeros := olderPacking(layout.Transposed(w.Zeros, out, groups), groups, out, b)
			words := len(zeros) / groups
			tensors[2] = layout.Int32Tensor("x.weight_zero_point", layout.Transposed(zeros, groups, words), words, groups)
			if unpacked {
				tensors[2] = layout.Tensor{Spec: layout.Spec{Name: "x.weight_zero_point", DType: safetensors.I8, Shape: []int{out, groups}}}
				for _, z := range w.Zeros {
					tensors[2].Data = append(tensors[2].Data, z-layout.SymmetricZero(b))
				}
			}
			tensors[3] = layout.Int32Tensor("x.weight_shape", []int32{out, in}, 2)
			_, back := formattest.ReadBack(t, Format{}, formattest.QuantizationOf(t, Format{}, l), tensors)
			formattest.RequireSame(t, w, back)
		}
	}
}

// TestCompressedTensorsStrangers reads what llm-compressor does differently.
func TestCompressedTensorsStrangers(t *testing.T) {
	w := formattest.RandomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: quant.F16Short}, false, false)
	l := layout.LayerOf("model.layers.0.x", w)
	l.DType = safetensors.BF16
	tensors, err := Format{}.Encode(l, w)
	require.NoError(t, err)
	require.Equal(t, safetensors.BF16, tensors[1].DType)
	const config = `{"quant_method":"compressed-tensors","format":"pack-quantized","quantization_status":"compressed","version":"0.15.0","sparsity_config":{},
		"config_groups":{"group_0":{"targets":["Linear"],"format":"pack-quantized","input_activations":null,"output_activations":null,
		"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":32,"dynamic":false,"actorder":"static","observer":"minmax","observer_kwargs":{},"zp_dtype":null,"scale_dtype":null,"block_structure":null}}},
		"ignore":["lm_head"],"kv_cache_scheme":null,"global_compression_ratio":null,"transform_config":{}}`
	back, got := formattest.ReadBack(t, Format{}, json.RawMessage(config), tensors)
	formattest.RequireSame(t, w, got)
	require.Equal(t, quant.F16, back.Scheme.ScaleType)
	require.True(t, back.Scheme.Symmetric, "the library's default")

	t.Run("zero-points of a symmetric weight, and an empty group index", func(t *testing.T) {
		more := append(slices.Clone(tensors), layout.Tensor{Spec: layout.Spec{Name: l.Name + ".weight_zero_point", DType: safetensors.I8, Shape: []int{16, 2}}, Data: make([]byte, 32)},
			layout.Int32Tensor(l.Name+".weight_g_idx", slices.Repeat([]int32{-1}, 64), 64))
		_, got := formattest.ReadBack(t, Format{}, json.RawMessage(config), more)
		formattest.RequireSame(t, w, got)
	})
	t.Run("an older config", func(t *testing.T) {
		old := `{"format":"pack-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":4,"symmetric":true,"group_size":32}}}}`
		require.True(t, Format{}.Detect(json.RawMessage(old)))
		_, got := formattest.ReadBack(t, Format{}, json.RawMessage(old), tensors)
		formattest.RequireSame(t, w, got)
	})
	t.Run("several groups", func(t *testing.T) {
		groups := func(targets ...string) json.RawMessage {
			text := `{"quant_method":"compressed-tensors","format":"mixed-precision","config_groups":{"z":{"targets":["Linear"],"weights":{"num_bits":8,"group_size":32}}`
			for i, target := range targets {
				bits := 4
				if i > 0 {
					bits = 2
				}
				text += fmt.Sprintf(`,"%d":{"targets":[%q],"weights":{"num_bits":%d,"group_size":32}}`, i, target, bits)
			}
			return json.RawMessage(text + `}}`)
		}
		for _, targets := range [][]string{
			{`re:.*\.0\.x$`},
			{`re:model\.(?!visual).*x`},        // looks ahead, as Go's own expressions cannot
			{"model.layers.0.x", "re:.*"},      // a name goes before an expression
			{"re:model", "re:layers.0.x", "x"}, // anchored at the start
		} {
			_, got := formattest.ReadBack(t, Format{}, groups(targets...), tensors)
			formattest.RequireSame(t, w, got)
		}
		err := formattest.OpenAll(Format{}, groups("re:("), formattest.NewMemory(tensors...))
		require.ErrorContains(t, err, `target "re:("`)
		err = formattest.OpenAll(Format{}, groups("re:layers"), formattest.NewMemory(tensors...))
		require.ErrorContains(t, err, "of 8 bits", "the class name is what is left")
	})
}

func TestCompressedTensorsRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 7, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64}}
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc, or format hqq"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "use format lowbit or dense"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "use format lowbit or dense"},
		{Name: "f32", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "quantize with scale type f16"},
		{Name: "short group", Set: func(l *layout.Layer) { l.In = 160 }, Want: "64 does not divide 160; use groups of 32 or whole rows"},
		{Name: "odd", Set: func(l *layout.Layer) { l.In = 86 }, Want: "use whole rows (group size -1)"},
		{Name: "large group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 256 }, Want: "256 does not divide 128; use groups of 128"},
		{Name: "index of whole rows", Set: func(l *layout.Layer) { l.Scheme.GroupSize, l.GroupIndex = quant.WholeLine, true }, Want: "group index only with groups"},
		{Name: "scheme", Set: func(l *layout.Layer) { l.Scheme.Bits = 9 }, Want: "bits 9"},
	})
	w := formattest.RandomWeight(1, 7, 128, base.Scheme, false, false)
	w.GroupIndex = make([]int32, 128)
	_, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, "group 0 has 128 inputs")
}

func TestCompressedTensorsConfig(t *testing.T) {
	layer := func(name string, bits, group int, sym bool) layout.Layer {
		return layout.Layer{Name: name, Out: 64, In: 64, DType: safetensors.BF16, Scheme: quant.Scheme{Bits: bits, GroupSize: group, Symmetric: sym, ScaleType: quant.F16Short}}
	}
	c := layout.Contents{
		Layers: []layout.Layer{layer("model.layers.0.a", 4, 32, true), layer("model.layers.1.a", 4, 32, true)},
		Dense:  []string{"model.embed_tokens", "model.layers.1.b"},
		Config: json.RawMessage(formattest.ModelConfig),
	}
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"compressed-tensors","format":"pack-quantized","quantization_status":"compressed",
		"config_groups":{"group_0":{"targets":["Linear"],"format":"pack-quantized","input_activations":null,"output_activations":null,
		"weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":32,"dynamic":false,"actorder":null}}},
		"ignore":["model.layers.1.b","lm_head"],"kv_cache_scheme":null,"global_compression_ratio":null}`, string(got.Quantization))
	require.Nil(t, got.Set, "scales of 7 bits are exact in bfloat16")

	c.Layers = append(c.Layers, layer("model.layers.2.a", 3, quant.WholeLine, false), layer("lm_head", 4, 32, true))
	c.Layers[2].Scheme.ScaleType = quant.F16
	got, err = Format{}.Config(c)
	require.NoError(t, err)
	var q struct {
		Groups map[string]configGroup `json:"config_groups"`
		Ignore []string
	}
	require.NoError(t, json.Unmarshal(got.Quantization, &q))
	require.Equal(t, []string{"model.layers.1.b"}, q.Ignore)
	require.Equal(t, []string{`re:^model\.layers\.0\.a$`, `re:^model\.layers\.1\.a$`, `re:^lm_head$`}, q.Groups["group_0"].Targets)
	require.Equal(t, []string{`re:^model\.layers\.2\.a$`}, q.Groups["group_1"].Targets)
	require.Equal(t, "channel", q.Groups["group_1"].Weights.Strategy)
	require.Nil(t, q.Groups["group_1"].Weights.GroupSize)
	require.JSONEq(t, `"float16"`, string(got.Set["torch_dtype"]))
}

func TestCompressedTensorsDamage(t *testing.T) {
	w := formattest.RandomWeight(3, 16, 64, quant.Scheme{Bits: 3, GroupSize: 32}, false, false)
	w.GroupIndex = layout.ConsecutiveGroups(64, 32)
	slices.Reverse(w.GroupIndex)
	l := layout.LayerOf("x", w)
	tensors, err := Format{}.Encode(l, w)
	require.NoError(t, err)
	config := func(weights, more string) string {
		return `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":3,"symmetric":false,"group_size":32` + weights + `}` + more + `}}}`
	}
	huge := binary.LittleEndian.AppendUint64(nil, 1<<62)
	formattest.CheckDamage(t, Format{}, json.RawMessage(config("", "")), tensors, []formattest.Damage{
		{Name: "not JSON", Config: `{`, Want: "quantization_config"},
		{Name: "format", Config: `{"quant_method":"compressed-tensors","format":"float-quantized"}`, Want: `"float-quantized" cannot be read: want one of`},
		{Name: "no groups", Config: `{"quant_method":"compressed-tensors","format":"pack-quantized"}`, Want: "config_groups"},
		{Name: "group format", Config: config("", `,"format":"nvfp4-pack-quantized"`), Want: "config_groups.a: format"},
		{Name: "no weights", Config: `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{}}}`, Want: "config_groups.a: no weights"},
		{Name: "float", Config: config(`,"type":"float"`, ""), Want: `weights of type "float"`},
		{Name: "bits", Config: config(`,"num_bits":1`, ""), Want: "num_bits 1"},
		{Name: "strategy", Config: config(`,"strategy":"block"`, ""), Want: `strategy "block"`},
		{Name: "channel", Config: config(`,"strategy":"channel"`, ""), Want: "strategy channel with group_size 32"},
		{Name: "group", Config: config(`,"strategy":"group","group_size":null`, ""), Want: "strategy group with group_size 0"},
		{Name: "bits lie", Config: config(`,"num_bits":4`, ""), Want: `tensor "x.weight_packed": shape [16 6], want [16 8]`},
		{Name: "group lies", Config: config(`,"group_size":64`, ""), Want: `tensor "x.weight_scale": 2 groups for 64 inputs`},
		{Name: "no match", Config: `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{"targets":["y"],"weights":{"num_bits":3,"group_size":32}},"b":{"targets":["z"],"weights":{"num_bits":3,"group_size":32}}}}`, Want: `matches layer "x"`},
		{Name: "no shape", Edit: formattest.DropTensor("x.weight_shape"), Want: `no tensor "x.weight_shape"`},
		{Name: "no scale", Edit: formattest.DropTensor("x.weight_scale"), Want: `no tensor "x.weight_scale"`},
		{Name: "no zero-points", Edit: formattest.DropTensor("x.weight_zero_point"), Want: "says that weights are asymmetric"},
		{Name: "shape dtype", Edit: formattest.SetSpec("x.weight_shape", safetensors.F16, 2), Want: "want I64 or I32"},
		{Name: "shape lies", Edit: formattest.SetBytes("x.weight_shape", 8, 128), Want: `tensor "x.weight_packed": shape [16 6], want [16 12]`},
		{Name: "shape lies about outputs", Edit: formattest.SetBytes("x.weight_shape", 0, 17), Want: "want [17 any]"},
		{Name: "shape huge", Edit: formattest.SetBytes("x.weight_shape", 8, huge...), Want: "value 1 is 4611686018427387904"},
		{Name: "shape zero", Edit: formattest.SetBytes("x.weight_shape", 0, 0), Want: "value 0 is 0"},
		{Name: "packed dtype", Edit: formattest.SetSpec("x.weight_packed", safetensors.U8, 16, 6), Want: "dtype U8, want I32"},
		{Name: "scale shape", Edit: formattest.SetSpec("x.weight_scale", safetensors.F16, 16, 0), Want: "want [16 1 to 64]"},
		{Name: "scale infinite", Edit: formattest.SetBytes("x.weight_scale", 0, 0, 0x7c), Want: `layer "x": scale +Inf`},
		{Name: "zero-points shape", Edit: formattest.SetSpec("x.weight_zero_point", safetensors.I32, 3, 2), Want: `tensor "x.weight_zero_point": shape [3 2], want [2 2]`},
		{Name: "zero-points dtype", Edit: formattest.SetSpec("x.weight_zero_point", safetensors.I64, 2, 2), Want: "want I32 or I8"},
		{Name: "zero-point range", Edit: func(m *formattest.Memory) {
			formattest.SetSpec("x.weight_zero_point", safetensors.I8, 16, 2)(m)
			formattest.SetBytes("x.weight_zero_point", 0, slices.Repeat([]byte{0}, 31)...)(m)
			formattest.SetBytes("x.weight_zero_point", 5, 0xfb)(m)
		}, Want: `tensor "x.weight_zero_point": zero-point -5 at 5, want -4 to 3`},
		{Name: "g_idx range", Edit: formattest.SetBytes("x.weight_g_idx", 4, 2), Want: "group 2 of input 1, want 0 to 1"},
		{Name: "g_idx uneven", Edit: formattest.SetBytes("x.weight_g_idx", 4, 0), Want: "group 0 has 33 inputs, want 32"},
		{Name: "g_idx shape", Edit: formattest.SetSpec("x.weight_g_idx", safetensors.I32, 63), Want: "shape [63], want [64]"},
	})
	require.NoError(t, formattest.OpenAll(Format{}, json.RawMessage(config("", "")), formattest.NewMemory(tensors...)))
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{},
		formattest.RandomWeight(1, 9, 30, quant.Scheme{Bits: 5, GroupSize: 10}, false, false),
		formattest.RandomWeight(2, 8, 32, quant.Scheme{Bits: 4, GroupSize: 16, Symmetric: true}, false, false))
}

// TestTowers: the modules beside the language model stay dense under any path.
func TestTowers(t *testing.T) {
	names := []string{"vision_tower.encoder.layers.0.mlp.fc1", "model.audio_tower.x", "lm_head"}
	require.Equal(t, append(names, `re:.*\bvision_tower\b.*`, `re:.*\baudio_tower\b.*`), ignored(names))
	require.Equal(t, []string{"my_vision_tower.x", "visual"}, ignored([]string{"my_vision_tower.x", "visual"}))
}
