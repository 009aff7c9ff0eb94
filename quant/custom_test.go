package quant_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// signs is a grid of four levels -4, -1, 1, 4 times a scale.
type signs struct{}

var signLevels = [4]float32{-4, -1, 1, 4}

func (signs) MarshalText() ([]byte, error) { return []byte("signs"), nil }
func (signs) Bits() int                    { return 2 }
func (signs) Span() int                    { return 2 }
func (signs) ParamBits(groups int) int64   { return 32 * int64((groups+1)/2) }

func (signs) Fit(scale, shift, x, _ []float32, size int, _ quant.Clip) (int, error) {
	for k := range scale {
		var top float32
		for _, v := range x[k/2*2*size : min((k/2+1)*2*size, len(x))] {
			if v-v != 0 {
				return k, quant.ErrNotFinite
			}
			top = max(top, v, -v)
		}
		scale[k], shift[k] = top/4, 0
	}
	return 0, nil
}

func (signs) Store([]float32, []float64) {}

func (g signs) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	for i, v := range x {
		best := math.Inf(1)
		for u, l := range signLevels {
			if d := math.Abs(float64(scale[i/size]*l - v)); d < best {
				best, codes[i] = d, uint8(u)
			}
		}
	}
	if values != nil {
		g.Values(values, codes, scale, shift, size)
	}
}

func (signs) Values(dst []float32, codes []uint8, scale, _ []float32, size int) {
	for i, u := range codes {
		dst[i] = scale[i/size] * signLevels[u]
	}
}

func (signs) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	for i, u := range codes {
		dst[i] = signLevels[u]
	}
}

func TestCustomGrid(t *testing.T) {
	w := tensor.FromSlice(1, 6, []float32{4, -1, 1.2, -7, 0.4, 12})
	s := quant.Scheme{Bits: 2, GroupSize: 2, Grid: signs{}}
	require.Equal(t, 4, s.SpanLen(6))
	require.Equal(t, 3, s.SpanLen(3))
	q := rtn(t, w, s, nil)
	require.NoError(t, q.Validate())
	require.Equal(t, []float32{1.75, 1.75, 3}, q.Scales, "two groups of a span share their scale")
	require.Equal(t, []float32{1.75, -1.75, 1.75, -7, 3, 12}, q.Dequantize().Data)
	require.EqualValues(t, 6*2+2*32, q.StorageBits())
	require.Nil(t, q.Zeros)

	s.Axis, s.Strided = quant.IC, true
	q = rtn(t, w.T(), s, nil)
	// Groups hold 4 and -7, -1 and 0.4, 1.2 and 12.
	require.Equal(t, []float32{1.75, 1.75, 3}, q.Scales)
	require.Equal(t, []float32{1.75, -1.75, 3, -7, 1.75, 12}, q.Dequantize().Data)
	_, err := quant.RTN{}.Quantize(context.Background(), tensor.FromSlice(1, 2, []float32{1, float32(math.NaN())}), quant.Scheme{Bits: 2, GroupSize: 1, Grid: signs{}}, nil)
	require.ErrorIs(t, err, quant.ErrNotFinite)
	require.EqualError(t, err, "output channel 0, group 0: weight is not finite")
}

func TestCustomGridScheme(t *testing.T) {
	s := quant.Scheme{Bits: 2, GroupSize: 2, Grid: signs{}}
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.Contains(t, string(text), `"grid":"signs"`)
	s.Bits = 3
	require.EqualError(t, s.Validate(), "invalid quantization scheme: bits 3, want 2 of the grid")
	s.Bits, s.Symmetric = 2, true
	require.EqualError(t, s.Validate(), "invalid quantization scheme: symmetric, range, scale type and smallest zero-point are for the uniform grid only")
	s.Symmetric = false
	q := quant.NewWeight(1, 4, s)
	require.NoError(t, q.Validate())
	q.Shifts[1] = float32(math.Inf(1))
	require.EqualError(t, q.Validate(), "shift +Inf of line 0 is not finite")
	q.Shifts = q.Shifts[1:]
	require.EqualError(t, q.Validate(), "2 scales and 1 shifts, want 2")
	q = quant.NewWeight(1, 4, s)
	q.Zeros = make([]uint8, 2)
	require.EqualError(t, q.Validate(), "shifts and zero-points do not go together")
}

func TestClipRule(t *testing.T) {
	for want, s := range map[quant.Clip]quant.Scheme{
		quant.ClipNone: {ClipInput: true}, quant.ClipPower: {Clip: true}, quant.ClipInputs: {Clip: true, ClipInput: true},
	} {
		require.Equal(t, want, s.ClipRule())
		got, err := quant.ParseClip(want.String())
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
}
