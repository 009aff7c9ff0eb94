package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

var allBits = []int{2, 3, 4, 5, 6, 7, 8}

func TestCompressedTensorsListings(t *testing.T) {
	for _, b := range allBits {
		w := listingWeight(6, 40, quant.Scheme{Bits: b, GroupSize: 20, MinZero: 1})
		listed := checkListing(t, CompressedTensors{}, fmt.Sprintf("compressed-tensors/%dbit.txt", b), w)
		require.Len(t, listed, 4)
	}
}

func TestCompressedTensorsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.IntRange(1, 40).Draw(t, "instep")
		l, w := drawHeld(t, CompressedTensors{}, allBits, []int{quant.WholeLine, in, 2 * in}, rapid.IntRange(1, 20).Draw(t, "outstep"), in, quant.OC)
		if w.Scheme.GroupSize != quant.WholeLine && w.Groups() > 1 && rapid.Bool().Draw(t, "act-order") {
			index := trivialGroups(w.In, w.Scheme.GroupSize)
			w.GroupIndex = rapid.Permutation(index).Draw(t, "index")
			if slices.Equal(w.GroupIndex, index) {
				slices.Reverse(w.GroupIndex)
			}
			l.GroupIndex = true
		}
		checkRoundTrip(t, CompressedTensors{}, l, w)
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
			w := randomWeight(uint64(b), out, in, quant.Scheme{Bits: b, GroupSize: 32}, false, false)
			l := LayerOf("x", w)
			tensors, err := CompressedTensors{}.Encode(l, w)
			require.NoError(t, err)
			codes := make([]uint8, out*in)
			for r := range out {
				w.Line(codes[r*in:(r+1)*in], r)
			}
			packed := olderPacking(codes, out, in, b)
			tensors[0] = int32Tensor("x.weight_packed", packed, out, len(packed)/out)
			zeros := olderPacking(transposed(w.Zeros, out, groups), groups, out, b)
			words := len(zeros) / groups
			tensors[2] = int32Tensor("x.weight_zero_point", transposed(zeros, groups, words), words, groups)
			if unpacked {
				tensors[2] = Tensor{Spec: Spec{"x.weight_zero_point", safetensors.I8, []int{out, groups}}}
				for _, z := range w.Zeros {
					tensors[2].Data = append(tensors[2].Data, z-middle(b))
				}
			}
			tensors[3] = int32Tensor("x.weight_shape", []int32{out, in}, 2)
			_, back := readBack(t, CompressedTensors{}, quantizationOf(t, CompressedTensors{}, l), tensors)
			requireSame(t, w, back)
		}
	}
}

// TestCompressedTensorsStrangers reads what llm-compressor does differently.
func TestCompressedTensorsStrangers(t *testing.T) {
	w := randomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true, ScaleType: quant.F16Short}, false, false)
	l := LayerOf("model.layers.0.x", w)
	l.DType = safetensors.BF16
	tensors, err := CompressedTensors{}.Encode(l, w)
	require.NoError(t, err)
	require.Equal(t, safetensors.BF16, tensors[1].DType)
	const config = `{"quant_method":"compressed-tensors","format":"pack-quantized","quantization_status":"compressed","version":"0.15.0","sparsity_config":{},
		"config_groups":{"group_0":{"targets":["Linear"],"format":"pack-quantized","input_activations":null,"output_activations":null,
		"weights":{"num_bits":4,"type":"int","strategy":"group","group_size":32,"dynamic":false,"actorder":"static","observer":"minmax","observer_kwargs":{},"zp_dtype":null,"scale_dtype":null,"block_structure":null}}},
		"ignore":["lm_head"],"kv_cache_scheme":null,"global_compression_ratio":null,"transform_config":{}}`
	back, got := readBack(t, CompressedTensors{}, json.RawMessage(config), tensors)
	requireSame(t, w, got)
	require.Equal(t, quant.F16, back.Scheme.ScaleType)
	require.True(t, back.Scheme.Symmetric, "the library's default")

	t.Run("zero-points of a symmetric weight, and an empty group index", func(t *testing.T) {
		more := append(slices.Clone(tensors), Tensor{Spec{l.Name + ".weight_zero_point", safetensors.I8, []int{16, 2}}, make([]byte, 32)},
			int32Tensor(l.Name+".weight_g_idx", slices.Repeat([]int32{-1}, 64), 64))
		_, got := readBack(t, CompressedTensors{}, json.RawMessage(config), more)
		requireSame(t, w, got)
	})
	t.Run("an older config", func(t *testing.T) {
		old := `{"format":"pack-quantized","config_groups":{"g":{"targets":["Linear"],"weights":{"num_bits":4,"symmetric":true,"group_size":32}}}}`
		require.True(t, CompressedTensors{}.Detect(json.RawMessage(old)))
		_, got := readBack(t, CompressedTensors{}, json.RawMessage(old), tensors)
		requireSame(t, w, got)
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
			_, got := readBack(t, CompressedTensors{}, groups(targets...), tensors)
			requireSame(t, w, got)
		}
		err := openAll(CompressedTensors{}, groups("re:("), newMemory(tensors...))
		require.ErrorContains(t, err, `target "re:("`)
		err = openAll(CompressedTensors{}, groups("re:layers"), newMemory(tensors...))
		require.ErrorContains(t, err, "of 8 bits", "the class name is what is left")
	})
}

func TestCompressedTensorsRefuses(t *testing.T) {
	base := Layer{Name: "x", Out: 7, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64}}
	checkRefusals(t, CompressedTensors{}, base, []refusal{
		{"axis", func(l *Layer) { l.Scheme.Axis = quant.IC }, "use axis oc, or format hqq"},
		{"row scale", func(l *Layer) { l.RowScale = true }, "use format lowbit or dense"},
		{"input scale", func(l *Layer) { l.InputScale = true }, "use format lowbit or dense"},
		{"f32", func(l *Layer) { l.Scheme.ScaleType = quant.F32 }, "quantize with scale type f16"},
		{"short group", func(l *Layer) { l.In = 160 }, "64 does not divide 160; use groups of 32 or whole rows"},
		{"odd", func(l *Layer) { l.In = 86 }, "use whole rows (group size -1)"},
		{"large group", func(l *Layer) { l.Scheme.GroupSize = 256 }, "256 does not divide 128; use groups of 128"},
		{"index of whole rows", func(l *Layer) { l.Scheme.GroupSize, l.GroupIndex = quant.WholeLine, true }, "group index only with groups"},
		{"scheme", func(l *Layer) { l.Scheme.Bits = 9 }, "bits 9"},
	})
	w := randomWeight(1, 7, 128, base.Scheme, false, false)
	w.GroupIndex = make([]int32, 128)
	_, err := CompressedTensors{}.Encode(LayerOf("x", w), w)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "group 0 has 128 inputs")
}

func TestCompressedTensorsConfig(t *testing.T) {
	layer := func(name string, bits, group int, sym bool) Layer {
		return Layer{Name: name, Out: 64, In: 64, DType: safetensors.BF16, Scheme: quant.Scheme{Bits: bits, GroupSize: group, Symmetric: sym, ScaleType: quant.F16Short}}
	}
	c := Contents{
		Layers: []Layer{layer("model.layers.0.a", 4, 32, true), layer("model.layers.1.a", 4, 32, true)},
		Dense:  []string{"model.embed_tokens", "model.layers.1.b"},
		Config: json.RawMessage(testConfig),
	}
	got, err := CompressedTensors{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"compressed-tensors","format":"pack-quantized","quantization_status":"compressed",
		"config_groups":{"group_0":{"targets":["Linear"],"format":"pack-quantized","input_activations":null,"output_activations":null,
		"weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group","group_size":32,"dynamic":false,"actorder":null}}},
		"ignore":["model.layers.1.b","lm_head"],"kv_cache_scheme":null,"global_compression_ratio":null}`, string(got.Quantization))
	require.Nil(t, got.Set, "scales of 7 bits are exact in bfloat16")

	c.Layers = append(c.Layers, layer("model.layers.2.a", 3, quant.WholeLine, false), layer("lm_head", 4, 32, true))
	c.Layers[2].Scheme.ScaleType = quant.F16
	got, err = CompressedTensors{}.Config(c)
	require.NoError(t, err)
	var q struct {
		Groups map[string]ctScheme `json:"config_groups"`
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
	w := randomWeight(3, 16, 64, quant.Scheme{Bits: 3, GroupSize: 32}, false, false)
	w.GroupIndex = trivialGroups(64, 32)
	slices.Reverse(w.GroupIndex)
	l := LayerOf("x", w)
	tensors, err := CompressedTensors{}.Encode(l, w)
	require.NoError(t, err)
	config := func(weights, more string) string {
		return `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":3,"symmetric":false,"group_size":32` + weights + `}` + more + `}}}`
	}
	huge := binary.LittleEndian.AppendUint64(nil, 1<<62)
	checkDamage(t, CompressedTensors{}, json.RawMessage(config("", "")), tensors, []damage{
		{name: "not JSON", config: `{`, want: "quantization_config"},
		{name: "format", config: `{"quant_method":"compressed-tensors","format":"float-quantized"}`, want: `"float-quantized" cannot be read: want pack-quantized`},
		{name: "no groups", config: `{"quant_method":"compressed-tensors","format":"pack-quantized"}`, want: "config_groups"},
		{name: "group format", config: config("", `,"format":"nvfp4-pack-quantized"`), want: "config_groups.a: format"},
		{name: "activations", config: config("", `,"input_activations":{"num_bits":8}`), want: "activations are quantized"},
		{name: "no weights", config: `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{}}}`, want: "config_groups.a: no weights"},
		{name: "float", config: config(`,"type":"float"`, ""), want: `weights of type "float"`},
		{name: "bits", config: config(`,"num_bits":1`, ""), want: "num_bits 1"},
		{name: "strategy", config: config(`,"strategy":"block"`, ""), want: `strategy "block"`},
		{name: "channel", config: config(`,"strategy":"channel"`, ""), want: "strategy channel with group_size 32"},
		{name: "group", config: config(`,"strategy":"group","group_size":null`, ""), want: "strategy group with group_size 0"},
		{name: "bits lie", config: config(`,"num_bits":4`, ""), want: `tensor "x.weight_packed": shape [16 6], want [16 8]`},
		{name: "group lies", config: config(`,"group_size":64`, ""), want: `tensor "x.weight_scale": 2 groups for 64 inputs`},
		{name: "no match", config: `{"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"a":{"targets":["y"],"weights":{"num_bits":3,"group_size":32}},"b":{"targets":["z"],"weights":{"num_bits":3,"group_size":32}}}}`, want: `matches layer "x"`},
		{name: "no shape", edit: dropTensor("x.weight_shape"), want: `no tensor "x.weight_shape"`},
		{name: "no scale", edit: dropTensor("x.weight_scale"), want: `no tensor "x.weight_scale"`},
		{name: "no zero-points", edit: dropTensor("x.weight_zero_point"), want: "says that weights are asymmetric"},
		{name: "shape dtype", edit: setSpec("x.weight_shape", safetensors.F16, 2), want: "want I64 or I32"},
		{name: "shape lies", edit: setBytes("x.weight_shape", 8, 128), want: `tensor "x.weight_packed": shape [16 6], want [16 12]`},
		{name: "shape lies about outputs", edit: setBytes("x.weight_shape", 0, 17), want: "want [17 any]"},
		{name: "shape huge", edit: setBytes("x.weight_shape", 8, huge...), want: "value 1 is 4611686018427387904"},
		{name: "shape zero", edit: setBytes("x.weight_shape", 0, 0), want: "value 0 is 0"},
		{name: "packed dtype", edit: setSpec("x.weight_packed", safetensors.U8, 16, 6), want: "dtype U8, want I32"},
		{name: "scale shape", edit: setSpec("x.weight_scale", safetensors.F16, 16, 0), want: "want [16 1 to 64]"},
		{name: "scale infinite", edit: setBytes("x.weight_scale", 0, 0, 0x7c), want: `layer "x": scale +Inf`},
		{name: "zero-points shape", edit: setSpec("x.weight_zero_point", safetensors.I32, 3, 2), want: `tensor "x.weight_zero_point": shape [3 2], want [2 2]`},
		{name: "zero-points dtype", edit: setSpec("x.weight_zero_point", safetensors.I64, 2, 2), want: "want I32 or I8"},
		{name: "zero-point range", edit: func(m *memory) {
			setSpec("x.weight_zero_point", safetensors.I8, 16, 2)(m)
			setBytes("x.weight_zero_point", 0, slices.Repeat([]byte{0}, 31)...)(m)
			setBytes("x.weight_zero_point", 5, 0xfb)(m)
		}, want: `tensor "x.weight_zero_point": zero-point -5 at 5, want -4 to 3`},
		{name: "g_idx range", edit: setBytes("x.weight_g_idx", 4, 2), want: "group 2 of input 1, want 0 to 1"},
		{name: "g_idx uneven", edit: setBytes("x.weight_g_idx", 4, 0), want: "group 0 has 33 inputs, want 32"},
		{name: "g_idx shape", edit: setSpec("x.weight_g_idx", safetensors.I32, 63), want: "shape [63], want [64]"},
	})
	require.NoError(t, openAll(CompressedTensors{}, json.RawMessage(config("", "")), newMemory(tensors...)))
}

func FuzzCompressedTensors(f *testing.F) {
	fuzzFormat(f, CompressedTensors{},
		randomWeight(1, 9, 30, quant.Scheme{Bits: 5, GroupSize: 10}, false, false),
		randomWeight(2, 8, 32, quant.Scheme{Bits: 4, GroupSize: 16, Symmetric: true}, false, false))
}
