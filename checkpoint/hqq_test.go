package checkpoint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

func TestHQQListings(t *testing.T) {
	for _, b := range gptqBits {
		checkListing(t, HQQ{}, fmt.Sprintf("hqq/%dbit_axis0.txt", b),
			listingWeight(24, 4, quant.Scheme{Bits: b, GroupSize: 12, Axis: quant.IC, Strided: true, MinZero: 1}))
		checkListing(t, HQQ{}, fmt.Sprintf("hqq/%dbit_axis1.txt", b),
			listingWeight(24, 4, quant.Scheme{Bits: b, GroupSize: 4, MinZero: 1}))
	}
}

func TestHQQRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.IntRange(1, 20).Draw(t, "step")
		l, w := drawHeld(t, HQQ{}, gptqBits, []int{quant.WholeLine, step, 2 * step, 4}, step, step, quant.OC, quant.IC)
		tensors := checkRoundTrip(t, HQQ{}, l, w)

		// What hqq computes: R from the bytes, then (R - zero) * scale, reshaped.
		d, err := HQQ{}.Open(quantizationOf(t, HQQ{}, l), newMemory(tensors...))
		require.NoError(t, err)
		m, err := d.(DenseDecoder).Matrix(l.Name)
		require.NoError(t, err)
		require.Equal(t, w.Dequantize().Data, m.Data)
	})
}

func TestHQQRefuses(t *testing.T) {
	base := Layer{Name: "x", Out: 64, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 32}}
	checkRefusals(t, HQQ{}, base, []refusal{
		{"bits", func(l *Layer) { l.Scheme.Bits = 5 }, "2, 3, 4 or 8 bits, and would store 5 as 8"},
		{"row scale", func(l *Layer) { l.RowScale = true }, "use format lowbit or dense"},
		{"input scale", func(l *Layer) { l.InputScale = true }, "use format lowbit or dense"},
		{"f32", func(l *Layer) { l.Scheme.ScaleType = quant.F32 }, "quantize with scale type f16"},
		{"index", func(l *Layer) { l.GroupIndex = true }, "quantize with static groups"},
		{"short group", func(l *Layer) { l.In = 100 }, "32 does not divide 100; use whole rows"},
		{"short group of outputs", func(l *Layer) { l.Out, l.Scheme.Axis = 48, quant.IC }, "32 does not divide 48; use groups of 16"},
		{"consecutive outputs", func(l *Layer) { l.Scheme.Axis = quant.IC }, "quantize with strided groups"},
		{"odd rows", func(l *Layer) { l.Out, l.Scheme.GroupSize = 3, quant.WholeLine }, "2 bands, which do not divide 3 rows (3 lines, groups of 128)"},
		{"odd group", func(l *Layer) {
			l.Out, l.Scheme = 30, quant.Scheme{Bits: 2, GroupSize: 10, Axis: quant.IC, Strided: true}
		}, "4 bands, which do not divide 10 rows"},
	})
	base.Scheme = quant.Scheme{Bits: 4, GroupSize: quant.WholeLine, Axis: quant.IC}
	require.NoError(t, HQQ{}.Check(base), "one group in a column has no stride")
}

func TestHQQConfig(t *testing.T) {
	layer := func(axis quant.Axis) Layer {
		return Layer{Name: "a.0.x", Out: 64, In: 64, Scheme: quant.Scheme{Bits: 3, GroupSize: 32, Axis: axis, Strided: axis == quant.IC}}
	}
	c := Contents{Layers: []Layer{layer(quant.OC), layer(quant.IC), layer(quant.IC)}, Dense: []string{"a.1.x", "lm_head"}, Config: json.RawMessage(`{}`)}
	got, err := HQQ{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"hqq","quant_config":{"weight_quant_params":{"nbits":3,"group_size":32,"axis":0,"channel_wise":true,
		"optimize":false,"round_zero":true,"view_as_float":false},"scale_quant_params":null,"zero_quant_params":null,"offload_meta":false},
		"skip_modules":["a.1.x","lm_head"]}`, string(got.Quantization))
	require.JSONEq(t, `"float16"`, string(got.Set["torch_dtype"]))
	c.Layers = c.Layers[:1]
	c.Layers[0].Scheme.GroupSize = quant.WholeLine
	got, err = HQQ{}.Config(c)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"group_size":null,"axis":1`)
}

const hqqQuantization = `{"quant_method":"hqq"}`

// hqqTensorsOf encodes a weight and lets the test change the tensors by name.
func hqqTensorsOf(t testing.TB, w *quant.Weight, edits ...func(*memory)) *memory {
	t.Helper()
	tensors, err := HQQ{}.Encode(LayerOf("x", w), w)
	require.NoError(t, err)
	m := newMemory(tensors...)
	for _, e := range edits {
		e(m)
	}
	return m
}

func TestHQQStrangers(t *testing.T) {
	w := randomWeight(5, 16, 32, quant.Scheme{Bits: 8, GroupSize: 8, Axis: quant.IC, Strided: true}, false, false)
	open := func(t *testing.T, m *memory) *hqqDecoder {
		d, err := HQQ{}.Open(json.RawMessage(hqqQuantization), m)
		require.NoError(t, err)
		return d.(*hqqDecoder)
	}
	t.Run("zero-points that are no integers", func(t *testing.T) {
		d := open(t, hqqTensorsOf(t, w, setBytes("x.zero", 2, 0x00, 0x41))) // 2.5
		_, err := d.Weight("x")
		require.ErrorIs(t, err, ErrNotWeight)
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
		d := open(t, hqqTensorsOf(t, w, setBytes("x.zero", 0, 0x00, 0x5c))) // 256
		_, err := d.Weight("x")
		require.ErrorIs(t, err, ErrNotWeight)
		require.NoError(t, openAll(HQQ{}, json.RawMessage(hqqQuantization), hqqTensorsOf(t, w, setBytes("x.zero", 0, 0x00, 0xbc))), "-1")
	})
	t.Run("5 and 6 bits in bytes", func(t *testing.T) {
		for _, b := range []byte{5, 6} {
			narrow := randomWeight(5, 16, 32, quant.Scheme{Bits: int(b), GroupSize: 8}, false, false)
			bytes := *narrow
			bytes.Scheme.Bits = 8
			bytes.Codes = make([]uint32, 16*bytes.WordsPerLine())
			codes := make([]uint8, 32)
			for l := range 16 {
				narrow.Line(codes, l)
				bytes.SetLine(l, codes)
			}
			d := open(t, hqqTensorsOf(t, &bytes, setBytes("x.nbits", 0, b)))
			got, err := d.Weight("x")
			require.NoError(t, err)
			requireSame(t, narrow, got)
			err = openAll(HQQ{}, json.RawMessage(hqqQuantization), hqqTensorsOf(t, &bytes, setBytes("x.nbits", 0, b), setBytes("x.W_q", 9, 200)))
			require.ErrorContains(t, err, fmt.Sprintf(`tensor "x.W_q": code 200 at 9, want at most %d`, 1<<b-1))
		}
	})
	t.Run("viewed as floats", func(t *testing.T) {
		d := open(t, hqqTensorsOf(t, w, setSpec("x.W_q", safetensors.F16, 8, 32), setBytes("x.view_as_float", 0, 1)))
		got, err := d.Weight("x")
		require.NoError(t, err)
		requireSame(t, w, got)
	})
	t.Run("without what older versions did not store", func(t *testing.T) {
		d := open(t, hqqTensorsOf(t, w, dropTensor("x.quant_scale"), dropTensor("x.quant_zero"), dropTensor("x.optimize"), dropTensor("x.view_as_float")))
		got, err := d.Weight("x")
		require.NoError(t, err)
		requireSame(t, w, got)
		require.NotContains(t, d.Tensors("x"), "x.quant_scale")
	})
	t.Run("groups across lines", func(t *testing.T) {
		// 64 divides the 512 weights but neither 16 outputs nor 32 inputs.
		for axis, shape := range [][]int{{1, 8}, {8, 1}} {
			packed := []int{64, 8}
			if axis == 1 {
				packed = []int{8, 64}
			}
			d := open(t, hqqTensorsOf(t, w, setBytes("x.group_size", 0, 64), setBytes("x.axis", 0, byte(axis)), setSpec("x.W_q", safetensors.U8, packed...),
				setSpec("x.scale", safetensors.F16, shape...), setSpec("x.zero", safetensors.F16, shape...)))
			_, err := d.Weight("x")
			require.ErrorIs(t, err, ErrNotWeight)
			m, err := d.Matrix("x")
			require.NoError(t, err)
			require.Len(t, m.Data, 512)
			_, err = d.Matrix("y")
			require.ErrorContains(t, err, `no quantized layer "y"`)
		}
	})
}

func TestHQQDamage(t *testing.T) {
	w := randomWeight(5, 20, 32, quant.Scheme{Bits: 3, GroupSize: 10, Axis: quant.IC, Strided: true}, false, false)
	tensors, err := HQQ{}.Encode(LayerOf("x", w), w)
	require.NoError(t, err)
	checkDamage(t, HQQ{}, json.RawMessage(hqqQuantization), tensors, []damage{
		{name: "not JSON", config: `[`, want: "quantization_config"},
		{name: "no nbits", edit: dropTensor("x.nbits"), want: `no tensor "x.nbits"`},
		{name: "no scale", edit: dropTensor("x.scale"), want: `no tensor "x.scale"`},
		{name: "no zero", edit: dropTensor("x.zero"), want: `no tensor "x.zero"`},
		{name: "nbits dtype", edit: setSpec("x.nbits", safetensors.F32), want: "dtype F32, want I32"},
		{name: "nbits shape", edit: setSpec("x.nbits", safetensors.I32, 1), want: "shape [1], want []"},
		{name: "nbits", edit: setBytes("x.nbits", 0, 4), want: `tensor "x.nbits": 4 bits in packing 3bit_32, want 3`},
		{name: "1 bit", edit: setBytes("x.packing", 0, []byte("1bit_u8")...), want: `packing "1bit_u8"`},
		{name: "packing of any length", edit: setSpec("x.packing", safetensors.U8, 1000), want: "1000 bytes, want at most 64"},
		{name: "axis", edit: setBytes("x.axis", 0, 2), want: "axis 2, want 0 or 1"},
		{name: "group", edit: setBytes("x.group_size", 0, 7), want: "group_size 7 does not divide [20 32]"},
		{name: "group negative", edit: setBytes("x.group_size", 3, 0xff), want: "does not divide"},
		{name: "group lies", edit: setBytes("x.group_size", 0, 20), want: `tensor "x.W_q": shape [1 64], want [2 32]`},
		{name: "axis lies", edit: setBytes("x.axis", 0, 1), want: `tensor "x.W_q": shape [1 64], want [7 10]`},
		{name: "quantized scales", edit: setBytes("x.quant_scale", 0, 1), want: "quantized scales"},
		{name: "one scale", edit: setBytes("x.channel_wise", 0, 0), want: "one scale for the whole tensor"},
		{name: "shape zero", edit: setBytes("x.shape", 0, 0), want: "value 0 is 0"},
		{name: "shape huge", edit: setBytes("x.shape", 15, 0x7f), want: "value 1 is"},
		{name: "shape lies", edit: setBytes("x.shape", 0, 40), want: `tensor "x.W_q": shape [1 64], want [1 128]`},
		{name: "weight dtype", edit: setSpec("x.W_q", safetensors.U8, 1, 64), want: "dtype U8, want I32"},
		{name: "viewed bytes", edit: func(m *memory) {
			setBytes("x.view_as_float", 0, 1)(m)
			setSpec("x.W_q", safetensors.F16, 1, 100)(m)
		}, want: "200 bytes, want 256"},
		{name: "scale shape", edit: setSpec("x.scale", safetensors.F16, 64, 1), want: `tensor "x.scale": shape [64 1], want [1 64]`},
		{name: "scale dtype", edit: setSpec("x.scale", safetensors.U8, 1, 64), want: "want F16, BF16 or F32"},
		{name: "zero NaN", edit: setBytes("x.zero", 0, 0xff, 0x7f), want: `tensor "x.zero": zero-point NaN at 0`},
		{name: "scale NaN", edit: setBytes("x.scale", 0, 0xff, 0x7f), want: `layer "x": scale NaN`},
	})
	bands := slices.Clone(tensors)
	i := slices.IndexFunc(bands, func(tn Tensor) bool { return tn.Name == "x.packing" })
	bands[i].Data = []byte(strings.Replace(string(bands[i].Data), "3bit_32", "2bit_u8", 1))
	err = openAll(HQQ{}, json.RawMessage(hqqQuantization), func() Source { m := newMemory(bands...); setBytes("x.nbits", 0, 2)(m); return m }())
	require.ErrorContains(t, err, "10 rows of groups do not divide into the 4 bands of 2bit_u8")
}

func FuzzHQQ(f *testing.F) {
	fuzzFormat(f, HQQ{},
		randomWeight(1, 20, 6, quant.Scheme{Bits: 3, GroupSize: 10, Axis: quant.IC, Strided: true}, false, false),
		randomWeight(2, 8, 16, quant.Scheme{Bits: 4, GroupSize: 8}, false, false))
}
