package autogptq

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

var allBits = []int{2, 3, 4, 8}

func TestGPTQListings(t *testing.T) {
	for _, b := range allBits {
		s := quant.Scheme{Bits: b, GroupSize: 16, MinZero: 1}
		listed := formattest.CheckListing(t, Format{Version: 2}, fmt.Sprintf("%dbit.txt", b), formattest.ListingWeight(32, 32, s))
		formattest.CheckListing(t, Format{}, fmt.Sprintf("%dbit.txt", b), formattest.ListingWeight(32, 32, s))

		w := formattest.ListingWeight(32, 32, s)
		l := layout.LayerOf("x", w)
		tensors, err := Format{Version: 1}.Encode(l, w)
		require.NoError(t, err)
		i := slices.IndexFunc(listed, func(tn layout.Tensor) bool { return tn.Name == "x.qzeros.v1" })
		require.Equal(t, listed[i].Data, tensors[1].Data)
		_, back := formattest.ReadBack(t, Format{}, formattest.QuantizationOf(t, Format{Version: 1}, l), tensors)
		formattest.RequireSame(t, w, back)
	}
}

func TestGPTQRoundTrip(t *testing.T) {
	for _, f := range []Format{{}, {Version: 1}, {Version: 2}} {
		t.Run(f.Name(), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				l, w := formattest.DrawHeld(t, f, allBits, []int{quant.WholeLine, 16, 32, 64, 128}, 32, 32, quant.OC)
				if w.Groups() > 1 && rapid.Bool().Draw(t, "act-order") {
					formattest.WithGroupIndex(rapid.Uint64().Draw(t, "index"), w)
					w.GroupIndex[0] = int32(w.Groups() - 1) // not what the scheme implies
					l.GroupIndex = true
				}
				formattest.CheckRoundTrip(t, f, l, w)
			})
		})
	}
}

func TestGPTQGolden(t *testing.T) {
	file, cases := formattest.Golden(t, "../../../testdata")
	refused, dequantized := 0, 0
	for _, c := range cases {
		t.Run(strings.TrimSuffix(c.Prefix, "."), func(t *testing.T) {
			w := c.Weight(t, file)
			l := layout.LayerOf("x", w)
			stored := func(name, as string) layout.Tensor {
				info, ok := file.Info(c.Prefix + name)
				require.True(t, ok)
				data, err := file.ReadBytes(c.Prefix+name, nil)
				require.NoError(t, err)
				return layout.Tensor{Spec: layout.Spec{Name: "x." + as, DType: info.DType, Shape: info.Shape}, Data: data}
			}
			theirs := func(zeros string) []layout.Tensor {
				return []layout.Tensor{stored("qweight", "qweight"), stored(zeros, "qzeros"), stored("scales", "scales"), stored("g_idx", "g_idx")}
			}

			v2, err := Format{Version: 2}.Encode(l, w)
			require.NoError(t, err)
			require.Equal(t, theirs("qzeros_v2"), v2)
			_, back := formattest.ReadBack(t, Format{}, formattest.QuantizationOf(t, Format{Version: 2}, l), theirs("qzeros_v2"))
			formattest.RequireSame(t, w, back)

			config := fmt.Sprintf(`{"quant_method":"gptq","bits":%d,"group_size":%d,"sym":%v,"desc_act":%v,"checkpoint_format":"gptq","meta":{"quantizer":["gptqmodel:5.0.0"]}}`, c.Bits, c.Group, c.Sym, !c.Trivial)
			_, back = formattest.ReadBack(t, Format{}, json.RawMessage(config), theirs("qzeros_v1_gptqmodel"))
			formattest.RequireSame(t, w, back)

			v1, err := Format{Version: 1}.Encode(l, w)
			if c.ZeroMin == 0 {
				require.ErrorIs(t, err, layout.ErrUnsupported)
				refused++
				return
			}
			require.NoError(t, err)
			require.Equal(t, theirs("qzeros_v1_gptqmodel"), v1)
			require.Equal(t, theirs("qzeros_v1_autogptq"), v1)
			config = fmt.Sprintf(`{"bits":%d,"group_size":%d,"damp_percent":0.01,"desc_act":%v,"static_groups":false,"sym":%v,"true_sequential":true,"quant_method":"gptq","checkpoint_format":"gptq"}`, c.Bits, c.Group, !c.Trivial, c.Sym)
			_, back = formattest.ReadBack(t, Format{}, json.RawMessage(config), theirs("qzeros_v1_autogptq"))
			formattest.RequireSame(t, w, back)

			if _, ok := file.Info(c.Prefix + "dequant_fp16scales"); ok {
				v, err := file.ReadFloat32(c.Prefix+"dequant_fp16scales", nil)
				require.NoError(t, err)
				// Their product is a half float; ours is exact.
				for i, d := range back.Dequantize().Data {
					require.Equal(t, v[i], tensor.RoundF16(d), i)
				}
				dequantized++
			}
		})
	}
	require.Equal(t, 1, refused, "a case with a zero-point of 0 is there")
	require.Positive(t, dequantized)
}

func TestGPTQConstants(t *testing.T) {
	codes := map[int]string{2: "E4E4E4E4", 3: "88FAC688,C688FAC6,FAC688FA", 4: "76543210,FEDCBA98", 8: "03020100"}
	v1 := map[int]string{2: "55555555", 3: "DB6DB6DB,B6DB6DB6,6DB6DB6D", 4: "77777777", 8: "7F7F7F7F"}
	v2 := map[int]string{2: "AAAAAAAA", 3: "24924924,49249249,92492492", 4: "88888888", 8: "80808080"}
	for _, b := range allBits {
		w := formattest.ListingWeight(32, 32, quant.Scheme{Bits: b, GroupSize: quant.WholeLine, Symmetric: true})
		w.Zeros = slices.Repeat([]uint8{layout.SymmetricZero(b)}, len(w.Zeros))
		for version, want := range map[int]string{1: v1[b], 2: v2[b]} {
			out, err := Format{Version: version}.Encode(layout.LayerOf("x", w), w)
			require.NoError(t, err)
			text := formattest.WordsText(out[1].Data)
			n := len(want) + 1
			require.Equal(t, strings.Repeat(want+",", len(text)/n+1)[:len(text)], text)
			rows := formattest.WordsText(layout.Int32Tensor("", layout.Transposed(wire.Words(out[0].Data), out[0].Shape[0], 32)).Data)
			require.True(t, strings.HasPrefix(rows, codes[b]), rows)
		}
	}
}

// TestGPTQVersion1Zeros is the example of a zero-point of 0, which the tools
// that write version 1 store in different ways.
func TestGPTQVersion1Zeros(t *testing.T) {
	zeros := []uint8{5, 0, 9, 3, 8, 15, 1, 2}
	w := formattest.ListingWeight(32, 32, quant.Scheme{Bits: 4, GroupSize: quant.WholeLine})
	for i := range w.Zeros {
		w.Zeros[i] = zeros[i%8]
	}
	l := layout.LayerOf("x", w)
	tensors, err := Format{Version: 2}.Encode(l, w)
	require.NoError(t, err)
	require.Equal(t, "21F83905,21F83905,21F83905,21F83905", formattest.WordsText(tensors[1].Data))

	const config = `{"quant_method":"gptq","bits":4,"group_size":-1,"sym":false,"checkpoint_format":"gptq","meta":{"quantizer":%s}}`
	read := func(word uint32, quantizer string) []uint8 {
		tensors[1] = layout.Int32Tensor("x.qzeros", []uint32{word, word, word, word}, 1, 4)
		_, back := formattest.ReadBack(t, Format{}, json.RawMessage(fmt.Sprintf(config, quantizer)), tensors)
		return back.Zeros[:8]
	}
	require.Equal(t, zeros, read(0x10E727F4, `["gptqmodel:1.4.0"]`), "the word less 11111111")
	require.Equal(t, zeros, read(0x10E727F4, `"GPTQModel:1.4.0"`), "a producer not in a list")
	require.Equal(t, zeros, read(0x10E728F4, `["other:1"]`), "each field less 1, modulo 16")
	require.NotEqual(t, zeros, read(0x10E728F4, `["gptqmodel:1.4.0"]`))

	_, err = Format{Version: 1}.Encode(l, w)
	require.ErrorContains(t, err, "smallest zero-point 1")
	l.Scheme.MinZero = 1 // a promise that the weight does not keep
	_, err = Format{Version: 1}.Encode(l, w)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, `layer "x": zero-point 0 in group 0 of output 1`)
}

func TestGPTQRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 64, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: true}}
	refusals := []formattest.Refusal{
		{Name: "bits", Set: func(l *layout.Layer) { l.Scheme.Bits = 5 }, Want: "use format compressed-tensors"},
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc, or format hqq"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "use format lowbit or dense"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "use format lowbit or dense"},
		{Name: "f32", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "quantize with scale type f16"},
		{Name: "out", Set: func(l *layout.Layer) { l.Out = 40 }, Want: "multiples of 32, not [40 128]; keep the layer dense"},
		{Name: "in", Set: func(l *layout.Layer) { l.In = 172 }, Want: "multiples of 32"},
		{Name: "group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 48 }, Want: "takes groups of 48; use one of [-1 16 32"},
		{Name: "scheme", Set: func(l *layout.Layer) { l.Scheme.Bits = 0 }, Want: "bits 0"},
	}
	formattest.CheckRefusals(t, Format{}, base, refusals)
	formattest.CheckRefusals(t, Format{Version: 2}, base, refusals)
	formattest.CheckRefusals(t, Format{Version: 1}, base, append(refusals,
		formattest.Refusal{Name: "zero", Set: func(l *layout.Layer) { l.Scheme.Symmetric = false }, Want: "quantize with smallest zero-point 1, or symmetric, or use format gptq_v2"}))

	w := formattest.RandomWeight(1, 64, 128, base.Scheme, false, false)
	_, err := Format{}.Encode(layout.Layer{Name: "x", Out: 128, In: 64, Scheme: base.Scheme}, w)
	require.ErrorContains(t, err, "planned was")
	w.Scales[3] = 0.1
	_, err = Format{}.Encode(base, w)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	w.Scales[3], w.Zeros[3] = 0.5, 7
	_, err = Format{}.Encode(base, w)
	require.ErrorContains(t, err, "zero-points other than 8")
}

func TestGPTQConfig(t *testing.T) {
	layer := func(name string, bits int, sym bool) layout.Layer {
		return layout.Layer{Name: name, Out: 64, In: 64, Scheme: quant.Scheme{Bits: bits, GroupSize: 32, Symmetric: sym}}
	}
	c := layout.Contents{
		Layers: []layout.Layer{
			layer("model.layers.0.self_attn.q_proj", 8, true), layer("model.layers.0.self_attn.k_proj", 8, true), layer("model.layers.0.self_attn.v_proj", 8, true),
			layer("model.layers.0.mlp.up_proj", 4, true), layer("model.layers.1.mlp.gate_proj", 3, true), layer("model.layers.1.mlp.up_proj", 4, true),
			layer("model.layers.2.mlp.up_proj", 4, true), layer("model.layers.3.mlp.up_proj", 4, true),
		},
		Dense:  []string{"model.embed_tokens", "model.layers.0.mlp.down_proj", "lm_head"},
		Config: json.RawMessage(formattest.ModelConfig),
		Method: json.RawMessage(`{"name":"gptq"}`),
	}
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"bits":4,"group_size":32,"desc_act":false,"sym":true,"lm_head":false,
		"method":"gptq","quant_method":"gptq","format":"gptq","checkpoint_format":"gptq","pack_dtype":"int32",
		"dynamic":{
			"-:^model\\.layers\\.0\\.mlp\\.down_proj$":{},
			"+:^model\\.layers\\.0\\.self_attn\\.(q_proj|qkv_proj)$":{"bits":8,"group_size":32,"sym":true},
			"+:^model\\.layers\\.0\\.self_attn\\.(k_proj|qkv_proj)$":{"bits":8,"group_size":32,"sym":true},
			"+:^model\\.layers\\.0\\.self_attn\\.(v_proj|qkv_proj)$":{"bits":8,"group_size":32,"sym":true},
			"+:^model\\.layers\\.1\\.mlp\\.gate_proj$":{"bits":3,"group_size":32,"sym":true}},
		"modules_in_block_to_quantize":[["self_attn.q_proj","self_attn.k_proj","self_attn.v_proj","mlp.up_proj","mlp.gate_proj"]],
		"meta":{"quantizer":["lowbit"],"method":{"name":"gptq"}}}`, string(got.Quantization))
	require.Equal(t, []byte(got.Quantization), got.Files["quantize_config.json"])
	require.Equal(t, map[string]json.RawMessage{"torch_dtype": json.RawMessage(`"float16"`)}, got.Set)
	// The first rule that matches counts, so their order is part of the file.
	require.Less(t, bytes.Index(got.Quantization, []byte("down_proj")), bytes.Index(got.Quantization, []byte("q_proj")))

	c = layout.Contents{Layers: []layout.Layer{layer("a.0.x", 4, false), layer("a.1.x", 4, false)}, Config: json.RawMessage(`{"dtype":"float16"}`)}
	c.Layers[1].GroupIndex = true
	got, err = Format{}.Config(c)
	require.NoError(t, err)
	var q quantConfig
	require.NoError(t, json.Unmarshal(got.Quantization, &q))
	require.Equal(t, "gptq_v2", q.CheckpointFormat)
	require.True(t, q.DescAct)
	require.False(t, *q.Sym)
	require.Empty(t, q.Dynamic)
	require.Nil(t, got.Set)

	c.Layers[0].Scheme.Symmetric = true
	_, err = Format{}.Config(c)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	_, err = Format{Version: 2}.Config(c)
	require.NoError(t, err)
}

// TestGPTQStrangers reads what other writers do differently.
func TestGPTQStrangers(t *testing.T) {
	w := formattest.RandomWeight(3, 64, 128, quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}, false, false)
	for i := range w.Scales {
		w.Scales[i] = float32(i%100+1) / 4096
	}
	l := layout.LayerOf("model.layers.0.x", w)
	tensors, err := Format{}.Encode(l, w)
	require.NoError(t, err)
	const config = `{"bits":4,"group_size":32,"desc_act":false,"quant_method":"gptq"%s}`
	q := func(more string) json.RawMessage { return json.RawMessage(fmt.Sprintf(config, more)) }

	t.Run("no sym", func(t *testing.T) {
		back, got := formattest.ReadBack(t, Format{}, q(""), tensors)
		formattest.RequireSame(t, w, got)
		require.True(t, back.Scheme.Symmetric)
	})
	t.Run("no g_idx", func(t *testing.T) {
		_, got := formattest.ReadBack(t, Format{}, q(""), tensors[:3])
		formattest.RequireSame(t, w, got)
	})
	t.Run("bfloat16 and float32 scales", func(t *testing.T) {
		for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F32} {
			other := slices.Clone(tensors)
			other[2], err = layout.FloatTensor(tensors[2].Name, dtype, layout.Transposed(w.Scales, 64, 4), 4, 64)
			require.NoError(t, err)
			back, got := formattest.ReadBack(t, Format{}, q(""), other)
			formattest.RequireSame(t, w, got)
			require.Equal(t, quant.F16, back.Scheme.ScaleType)
		}
		other := slices.Clone(tensors)
		other[2].DType = safetensors.F32
		other[2].Data = make([]byte, 4*256)
		for i := range 256 {
			binary.LittleEndian.PutUint32(other[2].Data[4*i:], 0x3dcccccd) // 0.1
		}
		back, _ := formattest.ReadBack(t, Format{}, q(""), other)
		require.Equal(t, quant.F32, back.Scheme.ScaleType)
	})
	t.Run("negative groups", func(t *testing.T) {
		index := layout.ConsecutiveGroups(128, 32)
		for i := range index {
			index[i] -= 4
		}
		other := slices.Clone(tensors)
		other[3] = layout.Int32Tensor(tensors[3].Name, index, 128)
		back, got := formattest.ReadBack(t, Format{}, q(""), other)
		formattest.RequireSame(t, w, got)
		require.False(t, back.GroupIndex)
	})
	t.Run("dynamic", func(t *testing.T) {
		back, got := formattest.ReadBack(t, Format{}, json.RawMessage(`{"bits":8,"group_size":128,"quant_method":"gptq","sym":false,
			"dynamic":{"-:lm_head":{},"-:skip":false,"+:.*\\.(?!y)x$":{"bits":4,"group_size":32,"sym":true}}}`), tensors)
		formattest.RequireSame(t, w, got)
		require.True(t, back.Scheme.Symmetric)
		require.Equal(t, 32, back.Scheme.GroupSize)
	})
	t.Run("padding bits", func(t *testing.T) {
		// 3 bits of 43 inputs leave 31 bits of the fifth word unused.
		rows := make([]uint32, 5*32)
		for i := range rows {
			rows[i] = ^uint32(0)
		}
		odd := []layout.Tensor{
			layout.Int32Tensor("x.qweight", rows, 5, 32), layout.Int32Tensor("x.qzeros", make([]uint32, 3), 1, 3),
			{Spec: layout.Spec{Name: "x.scales", DType: safetensors.F16, Shape: []int{1, 32}}, Data: make([]byte, 64)}, layout.Int32Tensor("x.g_idx", make([]int32, 43), 43),
		}
		_, got := formattest.ReadBack(t, Format{}, json.RawMessage(`{"bits":3,"group_size":-1,"quant_method":"gptq"}`), odd)
		require.Equal(t, uint32(1), got.Codes[4])
	})
}

func TestGPTQDamage(t *testing.T) {
	w := formattest.RandomWeight(3, 64, 128, quant.Scheme{Bits: 4, GroupSize: 32, MinZero: 1}, false, false)
	l := layout.LayerOf("x", w)
	tensors, err := Format{Version: 1}.Encode(l, w)
	require.NoError(t, err)
	config := func(s string) string {
		return `{"quant_method":"gptq","bits":4,"group_size":32,"sym":false,"desc_act":false` + s + `}`
	}
	formattest.CheckDamage(t, Format{}, json.RawMessage(config("")), tensors, []formattest.Damage{
		{Name: "not JSON", Config: `{"bits":`, Want: "quantization_config"},
		{Name: "bits 5", Config: config(`,"bits":5`), Want: "bits 5, want 2, 3, 4 or 8"},
		{Name: "bits lie", Config: config(`,"bits":8`), Want: `tensor "x.qweight": shape [16 64], want [32 any] for 128 inputs (g_idx) of 8 bits`},
		{Name: "group lies", Config: config(`,"group_size":64`), Want: `tensor "x.scales": 4 groups, want 2 for 128 inputs in groups of 64`},
		{Name: "group 0", Config: config(`,"group_size":0`), Want: "group_size 0"},
		{Name: "sym lies", Config: config(`,"sym":true`), Want: `tensor "x.qzeros": zero-points other than 8`},
		{Name: "planar", Config: config(`,"checkpoint_format":"gptq_p"`), Want: "gptq_p, the planar layout"},
		{Name: "marlin", Config: config(`,"checkpoint_format":"marlin"`), Want: `checkpoint_format "marlin"`},
		{Name: "format", Config: config(`,"format":"bitblas"`), Want: `checkpoint_format "bitblas"`},
		{Name: "pack_dtype", Config: config(`,"pack_dtype":"int8"`), Want: `pack_dtype "int8"`},
		{Name: "dynamic", Config: config(`,"dynamic":[1]`), Want: "dynamic"},
		{Name: "no zeros", Edit: formattest.DropTensor("x.qzeros"), Want: `no tensor "x.qzeros"`},
		{Name: "no scales", Edit: formattest.DropTensor("x.scales"), Want: `no tensor "x.scales"`},
		{Name: "weight dtype", Edit: formattest.SetSpec("x.qweight", safetensors.F32, 16, 64), Want: "dtype F32, want I32"},
		{Name: "weight dims", Edit: formattest.SetSpec("x.qweight", safetensors.I32, 16, 64, 1), Want: "want 2 dimensions"},
		{Name: "weight empty", Edit: formattest.SetSpec("x.qweight", safetensors.I32, 0, 64), Want: "want dimensions of 1 to"},
		{Name: "weight rows", Edit: formattest.SetSpec("x.qweight", safetensors.I32, 15, 64), Want: "shape [15 64], want [16 any]"},
		{Name: "zeros shape", Edit: formattest.SetSpec("x.qzeros", safetensors.I32, 4, 16), Want: `tensor "x.qzeros": shape [4 16], want [any 8]`},
		{Name: "scales shape", Edit: formattest.SetSpec("x.scales", safetensors.F16, 64, 4), Want: `tensor "x.scales": shape [64 4], want [4 64]`},
		{Name: "scales dtype", Edit: formattest.SetSpec("x.scales", safetensors.I32, 4, 64), Want: `dtype I32, want F16, BF16 or F32`},
		{Name: "scale NaN", Edit: formattest.SetBytes("x.scales", 10, 0xff, 0x7f), Want: `layer "x": scale NaN`},
		{Name: "g_idx short", Edit: formattest.SetSpec("x.g_idx", safetensors.I32, 100), Want: "for 100 inputs (g_idx)"},
		{Name: "g_idx large", Edit: formattest.SetBytes("x.g_idx", 8, 4, 0, 0, 0), Want: `tensor "x.g_idx": group 4 of input 2, want 0 to 3`},
		{Name: "g_idx negative", Edit: formattest.SetBytes("x.g_idx", 8, 0xfb, 0xff, 0xff, 0xff), Want: `group -5 of input 2`},
	})
	require.NoError(t, formattest.OpenAll(Format{}, json.RawMessage(config("")), formattest.NewMemory(tensors...)))
	_, err = (&layout.PackedDecoder{}).Weight("y")
	require.ErrorContains(t, err, `no quantized layer "y"`)
	require.Nil(t, (&layout.PackedDecoder{}).Tensors("y"))
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{Version: 2},
		formattest.RandomWeight(1, 32, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false),
		formattest.RandomWeight(2, 32, 64, quant.Scheme{Bits: 3, GroupSize: 16}, false, false))
}
