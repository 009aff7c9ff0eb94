package hqq

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

var allBits = []int{2, 3, 4, 8}

func TestHQQListings(t *testing.T) {
	for _, b := range allBits {
		formattest.CheckListing(t, Format{}, fmt.Sprintf("%dbit_axis0.txt", b),
			formattest.ListingWeight(24, 4, quant.Scheme{Bits: b, GroupSize: 12, Axis: quant.IC, Strided: true, MinZero: 1}))
		formattest.CheckListing(t, Format{}, fmt.Sprintf("%dbit_axis1.txt", b),
			formattest.ListingWeight(24, 4, quant.Scheme{Bits: b, GroupSize: 4, MinZero: 1}))
	}
}

func TestHQQRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.IntRange(1, 20).Draw(t, "step")
		l, w := formattest.DrawHeld(t, Format{}, allBits, []int{quant.WholeLine, step, 2 * step, 4}, step, step, quant.OC, quant.IC)
		tensors := formattest.CheckRoundTrip(t, Format{}, l, w)

		// What hqq computes: R from the bytes, then (R - zero) * scale, reshaped.
		d, err := Format{}.Open(formattest.QuantizationOf(t, Format{}, l), formattest.NewMemory(tensors...))
		require.NoError(t, err)
		m, err := d.(layout.DenseDecoder).Matrix(l.Name)
		require.NoError(t, err)
		require.Equal(t, w.Dequantize().Data, m.Data)
	})
}

func TestHQQRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 64, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 32}}
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "bits", Set: func(l *layout.Layer) { l.Scheme.Bits = 5 }, Want: "2, 3, 4 or 8 bits, and would store 5 as 8"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "use format lowbit or dense"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "use format lowbit or dense"},
		{Name: "f32", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "quantize with scale type f16"},
		{Name: "index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "quantize with static groups"},
		{Name: "short group", Set: func(l *layout.Layer) { l.In = 100 }, Want: "32 does not divide 100; use whole rows"},
		{Name: "short group of outputs", Set: func(l *layout.Layer) { l.Out, l.Scheme.Axis = 48, quant.IC }, Want: "32 does not divide 48; use groups of 16"},
		{Name: "consecutive outputs", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "quantize with strided groups"},
		{Name: "odd rows", Set: func(l *layout.Layer) { l.Out, l.Scheme.GroupSize = 3, quant.WholeLine }, Want: "2 bands, which do not divide 3 rows (3 lines, groups of 128)"},
		{Name: "odd group", Set: func(l *layout.Layer) {
			l.Out, l.Scheme = 30, quant.Scheme{Bits: 2, GroupSize: 10, Axis: quant.IC, Strided: true}
		}, Want: "4 bands, which do not divide 10 rows"},
	})
	base.Scheme = quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Axis: quant.IC}
	require.NoError(t, Format{}.Check(base), "one group in a column has no stride")
}

func TestHQQConfig(t *testing.T) {
	layer := func(axis quant.Axis) layout.Layer {
		return layout.Layer{Name: "a.0.x", Out: 64, In: 64, Scheme: quant.Scheme{Bits: 3, GroupSize: 32, Axis: axis, Strided: axis == quant.IC}}
	}
	c := layout.Contents{Layers: []layout.Layer{layer(quant.OC), layer(quant.IC), layer(quant.IC)}, Dense: []string{"a.1.x", "lm_head"}, Config: json.RawMessage(`{}`)}
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"hqq","quant_config":{"weight_quant_params":{"nbits":3,"group_size":32,"axis":0,"channel_wise":true,
		"optimize":false,"round_zero":true,"view_as_float":false},"scale_quant_params":null,"zero_quant_params":null,"offload_meta":false},
		"skip_modules":["a.1.x","lm_head"]}`, string(got.Quantization))
	require.JSONEq(t, `"float16"`, string(got.Set["torch_dtype"]))
	c.Layers = c.Layers[:1]
	c.Layers[0].Scheme.GroupSize = quant.WholeLine
	got, err = Format{}.Config(c)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"group_size":null,"axis":1`)
}

const anyConfig = `{"quant_method":"hqq"}`

// tensorsOf encodes a weight and lets the test change the tensors by name.
func tensorsOf(t testing.TB, w *quant.Weight, edits ...func(*formattest.Memory)) *formattest.Memory {
	t.Helper()
	tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.NoError(t, err)
	m := formattest.NewMemory(tensors...)
	for _, e := range edits {
		e(m)
	}
	return m
}

func TestHQQStrangers(t *testing.T) {
	w := formattest.RandomWeight(5, 16, 32, quant.Scheme{Bits: 8, GroupSize: 8, Axis: quant.IC, Strided: true}, false, false)
	open := func(t *testing.T, m *formattest.Memory) *decoder {
		d, err := Format{}.Open(json.RawMessage(anyConfig), m)
		require.NoError(t, err)
		return d.(*decoder)
	}
	t.Run("zero-points that are no integers", func(t *testing.T) {
		d := open(t, tensorsOf(t, w, formattest.SetBytes("x.zero", 2, 0x00, 0x41))) // 2.5
		_, err := d.Weight("x")
		require.ErrorIs(t, err, layout.ErrNotWeight)
		require.ErrorContains(t, err, `layer "x": zero-point 2.5 at 1`)
		m, err := d.Matrix("x")
		require.NoError(t, err)
		dense := w.Dequantize()
		codes := make([]uint8, 16)
		w.Line(codes, 1)
		for r := range 16 {
			for i := range 32 {
				want := dense.At(r, i)
				if i == 1 && r%2 == 0 { // group 0 of input 1
					want = w.Scales[1*2+0] * (float32(codes[r]) - 2.5)
				}
				require.Equal(t, want, m.At(r, i))
			}
		}
	})
	t.Run("zero-points beyond the codes", func(t *testing.T) {
		d := open(t, tensorsOf(t, w, formattest.SetBytes("x.zero", 0, 0x00, 0x5c))) // 256
		_, err := d.Weight("x")
		require.ErrorIs(t, err, layout.ErrNotWeight)
		require.NoError(t, formattest.OpenAll(Format{}, json.RawMessage(anyConfig), tensorsOf(t, w, formattest.SetBytes("x.zero", 0, 0x00, 0xbc))), "-1")
	})
	t.Run("5 and 6 bits in bytes", func(t *testing.T) {
		for _, b := range []byte{5, 6} {
			narrow := formattest.RandomWeight(5, 16, 32, quant.Scheme{Bits: int(b), GroupSize: 8}, false, false)
			bytes := *narrow
			bytes.Scheme.Bits = 8
			bytes.Codes = make([]uint32, 16*bytes.WordsPerLine())
			codes := make([]uint8, 32)
			for l := range 16 {
				narrow.Line(codes, l)
				bytes.SetLine(l, codes)
			}
			d := open(t, tensorsOf(t, &bytes, formattest.SetBytes("x.nbits", 0, b)))
			got, err := d.Weight("x")
			require.NoError(t, err)
			formattest.RequireSame(t, narrow, got)
			err = formattest.OpenAll(Format{}, json.RawMessage(anyConfig), tensorsOf(t, &bytes, formattest.SetBytes("x.nbits", 0, b), formattest.SetBytes("x.W_q", 9, 200)))
			require.ErrorContains(t, err, fmt.Sprintf(`tensor "x.W_q": code 200 at 9, want at most %d`, 1<<b-1))
		}
	})
	t.Run("viewed as floats", func(t *testing.T) {
		d := open(t, tensorsOf(t, w, formattest.SetSpec("x.W_q", safetensors.F16, 8, 32), formattest.SetBytes("x.view_as_float", 0, 1)))
		got, err := d.Weight("x")
		require.NoError(t, err)
		formattest.RequireSame(t, w, got)
	})
	t.Run("without what older versions did not store", func(t *testing.T) {
		d := open(t, tensorsOf(t, w, formattest.DropTensor("x.quant_scale"), formattest.DropTensor("x.quant_zero"), formattest.DropTensor("x.optimize"), formattest.DropTensor("x.view_as_float")))
		got, err := d.Weight("x")
		require.NoError(t, err)
		formattest.RequireSame(t, w, got)
		require.NotContains(t, d.Tensors("x"), "x.quant_scale")
	})
}

// TestHQQGroupsAcrossLines: such a layer is no weight, and is dequantized all the same.
func TestHQQGroupsAcrossLines(t *testing.T) {
	w := formattest.RandomWeight(5, 16, 32, quant.Scheme{Bits: 8, GroupSize: 8, Axis: quant.IC, Strided: true}, false, false)
	// 64 divides the 512 weights but neither 16 outputs nor 32 inputs.
	for axis, shape := range [][]int{{1, 8}, {8, 1}} {
		packed := []int{64, 8}
		if axis == 1 {
			packed = []int{8, 64}
		}
		d, err := Format{}.Open(json.RawMessage(anyConfig), tensorsOf(t, w, formattest.SetBytes("x.group_size", 0, 64), formattest.SetBytes("x.axis", 0, byte(axis)), formattest.SetSpec("x.W_q", safetensors.U8, packed...),
			formattest.SetSpec("x.scale", safetensors.F16, shape...), formattest.SetSpec("x.zero", safetensors.F16, shape...)))
		require.NoError(t, err)
		_, err = d.Weight("x")
		require.ErrorIs(t, err, layout.ErrNotWeight)
		m, err := d.(*decoder).Matrix("x")
		require.NoError(t, err)
		require.Len(t, m.Data, 512)
		_, err = d.(*decoder).Matrix("y")
		require.ErrorContains(t, err, `no quantized layer "y"`)
	}
}

func TestHQQDamage(t *testing.T) {
	w := formattest.RandomWeight(5, 20, 32, quant.Scheme{Bits: 3, GroupSize: 10, Axis: quant.IC, Strided: true}, false, false)
	tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.NoError(t, err)
	formattest.CheckDamage(t, Format{}, json.RawMessage(anyConfig), tensors, []formattest.Damage{
		{Name: "not JSON", Config: `[`, Want: "quantization_config"},
		{Name: "no nbits", Edit: formattest.DropTensor("x.nbits"), Want: `no tensor "x.nbits"`},
		{Name: "no scale", Edit: formattest.DropTensor("x.scale"), Want: `no tensor "x.scale"`},
		{Name: "no zero", Edit: formattest.DropTensor("x.zero"), Want: `no tensor "x.zero"`},
		{Name: "nbits dtype", Edit: formattest.SetSpec("x.nbits", safetensors.F32), Want: "dtype F32, want I32"},
		{Name: "nbits shape", Edit: formattest.SetSpec("x.nbits", safetensors.I32, 1), Want: "shape [1], want []"},
		{Name: "nbits", Edit: formattest.SetBytes("x.nbits", 0, 4), Want: `tensor "x.nbits": 4 bits in packing 3bit_32, want 3`},
		{Name: "1 bit", Edit: formattest.SetBytes("x.packing", 0, []byte("1bit_u8")...), Want: `packing "1bit_u8"`},
		{Name: "packing of any length", Edit: formattest.SetSpec("x.packing", safetensors.U8, 1000), Want: "1000 bytes, want at most 64"},
		{Name: "axis", Edit: formattest.SetBytes("x.axis", 0, 2), Want: "axis 2, want 0 or 1"},
		{Name: "group", Edit: formattest.SetBytes("x.group_size", 0, 7), Want: "group_size 7 does not divide [20 32]"},
		{Name: "group negative", Edit: formattest.SetBytes("x.group_size", 3, 0xff), Want: "does not divide"},
		{Name: "group lies", Edit: formattest.SetBytes("x.group_size", 0, 20), Want: `tensor "x.W_q": shape [1 64], want [2 32]`},
		{Name: "axis lies", Edit: formattest.SetBytes("x.axis", 0, 1), Want: `tensor "x.W_q": shape [1 64], want [7 10]`},
		{Name: "quantized scales", Edit: formattest.SetBytes("x.quant_scale", 0, 1), Want: "quantized scales"},
		{Name: "one scale", Edit: formattest.SetBytes("x.channel_wise", 0, 0), Want: "one scale for the whole tensor"},
		{Name: "shape zero", Edit: formattest.SetBytes("x.shape", 0, 0), Want: "value 0 is 0"},
		{Name: "shape huge", Edit: formattest.SetBytes("x.shape", 15, 0x7f), Want: "value 1 is"},
		{Name: "shape lies", Edit: formattest.SetBytes("x.shape", 0, 40), Want: `tensor "x.W_q": shape [1 64], want [1 128]`},
		{Name: "weight dtype", Edit: formattest.SetSpec("x.W_q", safetensors.U8, 1, 64), Want: "dtype U8, want I32"},
		{Name: "viewed bytes", Edit: func(m *formattest.Memory) {
			formattest.SetBytes("x.view_as_float", 0, 1)(m)
			formattest.SetSpec("x.W_q", safetensors.F16, 1, 100)(m)
		}, Want: "200 bytes, want 256"},
		{Name: "scale shape", Edit: formattest.SetSpec("x.scale", safetensors.F16, 64, 1), Want: `tensor "x.scale": shape [64 1], want [1 64]`},
		{Name: "scale dtype", Edit: formattest.SetSpec("x.scale", safetensors.U8, 1, 64), Want: "want F16, BF16 or F32"},
		{Name: "zero NaN", Edit: formattest.SetBytes("x.zero", 0, 0xff, 0x7f), Want: `tensor "x.zero": zero-point NaN at 0`},
		{Name: "scale NaN", Edit: formattest.SetBytes("x.scale", 0, 0xff, 0x7f), Want: `layer "x": scale NaN`},
	})
	bands := slices.Clone(tensors)
	i := slices.IndexFunc(bands, func(tn layout.Tensor) bool { return tn.Name == "x.packing" })
	bands[i].Data = []byte(strings.Replace(string(bands[i].Data), "3bit_32", "2bit_u8", 1))
	err = formattest.OpenAll(Format{}, json.RawMessage(anyConfig), func() layout.Source {
		m := formattest.NewMemory(bands...)
		formattest.SetBytes("x.nbits", 0, 2)(m)
		return m
	}())
	require.ErrorContains(t, err, "10 rows of groups do not divide into the 4 bands of 2bit_u8")
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{},
		formattest.RandomWeight(1, 20, 6, quant.Scheme{Bits: 3, GroupSize: 10, Axis: quant.IC, Strided: true}, false, false),
		formattest.RandomWeight(2, 8, 16, quant.Scheme{Bits: 4, GroupSize: 8}, false, false))
}
