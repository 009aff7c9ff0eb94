package mlx

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// TestFP4: what mlx has made (testdata/generate.py) is read as a weight of the same values,
// and written again byte by byte, zeros with a sign aside.
func TestFP4(t *testing.T) {
	f, err := safetensors.Open("testdata/values.safetensors")
	require.NoError(t, err)
	defer f.Close()
	for mode, key := range map[string]string{"mxfp4": "mxfp4-4-32", "nvfp4": "nvfp4-4-16"} {
		t.Run(mode, func(t *testing.T) {
			want, err := f.ReadFloat32(key, nil)
			require.NoError(t, err)
			const out, in = 2, 128
			scheme, ok := Format{FP4: mode}.Main()
			require.True(t, ok)
			l := layout.Layer{Name: "x", Out: out, In: in, Scheme: scheme}
			specs, err := Format{}.Plan(l)
			require.NoError(t, err)
			require.Len(t, specs, 2)
			var tensors []layout.Tensor
			for i, suffix := range []string{suffixWeight, suffixScales} {
				data, err := f.ReadBytes(key+suffix, nil)
				require.NoError(t, err)
				require.EqualValues(t, specs[i].Bytes(), len(data))
				tensors = append(tensors, layout.Tensor{Spec: specs[i], Data: data})
			}
			q := formattest.QuantizationOf(t, Format{}, l)
			require.Contains(t, string(q), `"mode": "`+mode+`"`)
			layer, w := formattest.ReadBack(t, Format{}, q, tensors)
			require.Equal(t, scheme, layer.Scheme)
			require.Equal(t, want, w.Dequantize().Data) // 0 is -0
			again, err := Format{}.Encode(l, w)
			require.NoError(t, err)
			require.Equal(t, tensors[1].Data, again[1].Data)
			for i, b := range tensors[0].Data {
				unsigned := func(b byte) byte {
					if b&15 == 8 {
						b &^= 8
					}
					if b>>4 == 8 {
						b &^= 0x80
					}
					return b
				}
				require.Equal(t, unsigned(b), again[0].Data[i], i)
			}
			tensors[1].Data[3] = 255
			if mode == "nvfp4" {
				tensors[1].Data[3] = 127
			}
			d, err := Format{}.Open(q, formattest.NewMemory(tensors...))
			require.NoError(t, err)
			_, err = d.Weight("x")
			require.ErrorIs(t, err, layout.ErrNotWeight)
			require.ErrorContains(t, err, "x.scales")
			tensors[1].Data[3] = 0 // a scale of 2^-127, or a group of zeros
			_, w = formattest.ReadBack(t, Format{}, q, tensors)
			for _, v := range w.Dequantize().Data[3*in/len(tensors[1].Data)*out:][:4] {
				require.Less(t, math.Abs(float64(v)), 1e-37)
			}
		})
	}
}

// TestFP4Mix: linears whose inputs are no whole groups stay dense.
func TestFP4Mix(t *testing.T) {
	mix, err := Format{}.Mix(nil, false)
	require.NoError(t, err)
	require.Nil(t, mix)
	mix, err = Format{FP4: "nvfp4"}.Mix(nil, false)
	require.NoError(t, err)
	s, _, err := mix(layout.Layer{In: 48})
	require.NoError(t, err)
	require.Equal(t, 16, s.GroupSize)
	_, _, err = mix(layout.Layer{In: 40})
	require.ErrorIs(t, err, layout.ErrUnsupported)
	_, _, err = Format{}.Typed("fp4", 64)
	require.ErrorContains(t, err, "want mxfp4 or nvfp4")
	s, _, err = Format{}.Typed("mxfp4", 64)
	require.NoError(t, err)
	l := layout.Layer{Name: "x", Out: 8, In: 64, Scheme: s}
	require.NoError(t, Format{}.Check(l))
	formattest.CheckRefusals(t, Format{}, l, []formattest.Refusal{
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc"},
		{Name: "index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "no group index"},
		{Name: "group", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 16 }, Want: "groups of 32 in mxfp4, not 16"},
		{Name: "inputs", Set: func(l *layout.Layer) { l.In = 80 }, Want: "80 inputs are not a whole number of groups of 32"},
	})
}
