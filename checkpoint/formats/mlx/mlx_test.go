package mlx

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// TestOwnBytes: what mx.quantize made is read to the values of mx.dequantize, bit by
// bit, and written again to the same bytes.
func TestOwnBytes(t *testing.T) {
	f, err := safetensors.Open("testdata/values.safetensors")
	require.NoError(t, err)
	defer f.Close()
	for _, s := range []Scheme{{2, 32, affineMode}, {3, 32, affineMode}, {4, 32, affineMode}, {5, 32, affineMode}, {6, 32, affineMode}, {8, 32, affineMode}, {4, 64, affineMode}, {3, 128, affineMode}} {
		key := fmt.Sprintf("affine-%d-%d", s.Bits, s.Group)
		t.Run(key, func(t *testing.T) {
			var tensors []layout.Tensor
			for _, suffix := range []string{suffixWeight, suffixScales, suffixBiases} {
				info, ok := f.Info(key + suffix)
				require.True(t, ok)
				data, err := f.ReadBytes(info.Name, nil)
				require.NoError(t, err)
				tensors = append(tensors, layout.Tensor{Spec: layout.Spec{Name: info.Name, DType: info.DType, Shape: info.Shape}, Data: data})
			}
			want, err := f.ReadFloat32(key, nil)
			require.NoError(t, err)
			q, err := json.Marshal(schemeJSON{s.Group, s.Bits, affineMode})
			require.NoError(t, err)
			d, err := Format{}.Open(q, formattest.NewMemory(tensors...))
			require.NoError(t, err)
			w, err := d.Weight(key)
			require.NoError(t, err)
			for i, v := range w.Dequantize().Data {
				// With zero-points the difference of codes is multiplied, not the code.
				if w.Scheme.Grid == nil {
					require.InDelta(t, want[i], v, 1e-6)
				} else {
					require.Equal(t, math.Float32bits(want[i]), math.Float32bits(v), "element %d", i)
				}
			}
			again, err := Format{}.Encode(d.Layers()[0], w)
			require.NoError(t, err)
			require.Equal(t, tensors, again)
		})
	}
}

// TestRoundTrip: weights with zero-points, as other formats have them, come back as
// they were.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, w := formattest.DrawHeld(t, Format{}, []int{2, 3, 4, 5, 6, 8}, []int{32, 64, 128, quant.WholeLine}, 1, 128, quant.OC)
		formattest.CheckRoundTrip(t, Format{}, l, w)
	})
}

// TestOwnGrid: what is asked for with zero-points is quantized with biases, which
// come back bit by bit, in the type of the scales.
func TestOwnGrid(t *testing.T) {
	types := map[quant.ScaleType]safetensors.DType{quant.F16: safetensors.F16, quant.BF16: safetensors.BF16, quant.F32: safetensors.F32}
	rapid.Check(t, func(t *rapid.T) {
		s := quant.Scheme{
			Bits: rapid.SampledFrom(widths).Draw(t, "bits"), GroupSize: rapid.SampledFrom(groups).Draw(t, "group"),
			ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.BF16, quant.F32}).Draw(t, "type"), Clip: rapid.Bool().Draw(t, "clip"),
		}
		own := Format{}.Own(s)
		require.NotNil(t, own.Grid)
		require.NoError(t, own.Validate())
		m := tensor.New(3, 256)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64() + 0.5)
		}
		w, err := quant.RTN{}.Quantize(t.Context(), m, own, nil)
		require.NoError(t, err)
		tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
		require.NoError(t, err)
		require.Equal(t, types[s.ScaleType], tensors[1].DType)
		require.Equal(t, types[s.ScaleType], tensors[2].DType)
		_, back := formattest.ReadBack(t, Format{}, formattest.QuantizationOf(t, Format{}, layout.LayerOf("x", w)), tensors)
		require.Equal(t, w.Codes, back.Codes)
		require.Equal(t, w.Dequantize().Data, back.Dequantize().Data)
	})
}

// TestOwn: what is left on the grid that was asked for.
func TestOwn(t *testing.T) {
	base := quant.Scheme{Bits: 4, GroupSize: 64}
	grid, _ := affine.Of(4, quant.F16)
	require.Equal(t, grid.Scheme(64), Format{}.Own(base))
	for name, set := range map[string]func(s *quant.Scheme){
		"symmetric": func(s *quant.Scheme) { s.Symmetric = true },
		"range":     func(s *quant.Scheme) { s.Range = quant.RangePaper },
		"min zero":  func(s *quant.Scheme) { s.MinZero = 1 },
		"short":     func(s *quant.Scheme) { s.ScaleType = quant.F16Short },
		"axis":      func(s *quant.Scheme) { s.Axis = quant.IC },
		"grid":      func(s *quant.Scheme) { s.Grid = grid },
	} {
		s := base
		set(&s)
		require.Equal(t, s, Format{}.Own(s), name)
	}
}

// TestTypes: biases that are -scale·zero-point take the type that holds them.
func TestTypes(t *testing.T) {
	for _, c := range []struct {
		s    quant.Scheme
		want safetensors.DType
	}{
		{quant.Scheme{Bits: 4, GroupSize: 32, Symmetric: true}, safetensors.F16},
		{quant.Scheme{Bits: 8, GroupSize: 32, Symmetric: true, ScaleType: quant.BF16}, safetensors.BF16},
		{quant.Scheme{Bits: 8, GroupSize: 32, Symmetric: true, ScaleType: quant.F32}, safetensors.F32},
		{quant.Scheme{Bits: 4, GroupSize: 32, ScaleType: quant.F16Short}, safetensors.F16},
		{quant.Scheme{Bits: 5, GroupSize: 32, ScaleType: quant.F16Short}, safetensors.F32},
		{quant.Scheme{Bits: 4, GroupSize: 32}, safetensors.F32},
		{quant.Scheme{Bits: 8, GroupSize: 32, ScaleType: quant.BF16}, safetensors.F32},
	} {
		specs, err := Format{}.Plan(layout.Layer{Name: "x", Out: 8, In: 64, Scheme: c.s})
		require.NoError(t, err)
		require.Equal(t, []layout.Spec{
			{Name: "x.weight", DType: safetensors.U32, Shape: []int{8, 2 * c.s.Bits}},
			{Name: "x.scales", DType: c.want, Shape: []int{8, 2}},
			{Name: "x.biases", DType: c.want, Shape: []int{8, 2}},
		}, specs, "%+v", c.s)
	}
}

func TestRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 8, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64}}
	levels, _ := kquant.Of(gguf.IQ4_NL)
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "bits", Set: func(l *layout.Layer) { l.Scheme.Bits = 7 }, Want: "2, 3, 4, 5, 6 and 8 bits, not 7; use 6 or 8"},
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "mlx has no row scales"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "mlx has no input scales"},
		{Name: "f32", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "use scale type f16"},
		{Name: "index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "quantize with static groups"},
		{Name: "group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 16 }, Want: "groups of 32, 64 and 128, not 16"},
		{Name: "whole rows", Set: func(l *layout.Layer) { l.In, l.Scheme.GroupSize = 256, quant.WholeLine }, Want: "groups of 32, 64 and 128, not 256"},
		{Name: "short group", Set: func(l *layout.Layer) { l.In = 96 }, Want: "64 does not divide 96; use groups of 32"},
		{Name: "grid", Set: func(l *layout.Layer) { l.Scheme = levels.Scheme() }, Want: "mlx has no grid IQ4_NL"},
	})
}

// TestConfig: the scheme of most layers, and by name those that differ.
func TestConfig(t *testing.T) {
	layer := func(name string, in int, s quant.Scheme) layout.Layer {
		return layout.Layer{Name: name, Out: 64, In: in, Scheme: s}
	}
	grid, _ := affine.Of(4, quant.F16)
	c := layout.Contents{Layers: []layout.Layer{
		layer("a.0.x", 128, quant.Scheme{Bits: 6, GroupSize: 32}), layer("a.0.y", 128, grid.Scheme(64)),
		layer("a.1.x", 128, grid.Scheme(64)), layer("a.1.y", 32, grid.Scheme(64)),
	}, Dense: []string{"model.embed_tokens", "a.1.z"}, Config: json.RawMessage(`{"torch_dtype":"bfloat16"}`)}
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	const want = `{"group_size":64,"bits":4,"mode":"affine",
		"a.0.x":{"group_size":32,"bits":6,"mode":"affine"},"a.1.y":{"group_size":32,"bits":4,"mode":"affine"}}`
	require.JSONEq(t, want, string(got.Quantization))
	require.Len(t, got.Set, 1)
	require.JSONEq(t, want, string(got.Set["quantization"]))
	parsed, err := parse(got.Quantization)
	require.NoError(t, err)
	require.Equal(t, Scheme{6, 32, affineMode}, parsed.scheme("a.0.x"))
	require.Equal(t, Scheme{4, 64, affineMode}, parsed.scheme("a.1.x"))
}

// TestOutOfRange: a bias that half floats do not reach names its tensor.
func TestOutOfRange(t *testing.T) {
	w := quant.NewWeight(1, 32, quant.Scheme{Bits: 8, GroupSize: 32, Symmetric: true})
	w.Scales[0], w.Zeros[0] = 600, 128
	_, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.ErrorContains(t, err, `tensor "x.biases"`)
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{}, formattest.RandomWeight(1, 4, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false),
		formattest.RandomWeight(2, 4, 64, quant.Scheme{Bits: 3, GroupSize: 32, Symmetric: true}, false, false))
}
