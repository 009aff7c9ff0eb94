package quant_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// RoundWeighted gives what RTN does with a calibration of the same diagonal; the rest of
// H does not matter to it.
func TestRoundWeighted(t *testing.T) {
	const out, in = 6, 64
	rng := rand.New(rand.NewPCG(3, 1))
	x, w := tensor.New(40, in), tensor.New(out, in)
	for _, m := range []*tensor.Matrix{x, w} {
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64() * rng.ExpFloat64())
		}
	}
	c := quant.NewCollector(in)
	c.Add(x, 1)
	sums, tokens := c.Squares()
	require.Equal(t, 40, tokens)
	full := c.Calibration()
	require.Equal(t, full.Diagonal(), sums)
	diagonal := quant.NewDiagonalCalibration(sums, 1)
	require.Equal(t, sums, diagonal.Diagonal())
	var rest float32
	for i := range in {
		require.InDelta(t, sums[i], diagonal.MeanAbs[i]*diagonal.MeanAbs[i], 1e-4*float64(sums[i]))
		for j := range i {
			rest += diagonal.H.At(i, j) + diagonal.H.At(j, i)
		}
	}
	require.Zero(t, rest)
	for _, s := range []quant.Scheme{
		{Bits: 3, GroupSize: 32, Clip: true, ClipInput: true}, {Bits: 3, GroupSize: 32, Clip: true},
		{Bits: 3, GroupSize: 3, Axis: quant.IC, Clip: true, ClipInput: true},
	} {
		want, err := quant.RTN{}.Quantize(t.Context(), w, s, full)
		require.NoError(t, err)
		again, err := quant.RTN{}.Quantize(t.Context(), w, s, diagonal)
		require.NoError(t, err)
		require.Equal(t, want, again)
		plain, err := quant.RTN{}.Quantize(t.Context(), w, s, nil)
		require.NoError(t, err)
		got, lines := quant.NewWeight(out, in, s), w
		if s.Axis == quant.IC {
			lines = w.T()
		}
		require.NoError(t, got.RoundWeighted(0, lines, sums))
		require.Equal(t, want.Codes, got.Codes)
		require.Equal(t, want.Scales, got.Scales)
		if s.ClipInput && s.Axis == quant.OC {
			require.NotEqual(t, plain.Scales, got.Scales)
		} else {
			require.Equal(t, plain.Scales, got.Scales)
		}
	}
}

// A collector of pairs has the squares of what the layer will see.
func TestPairSquares(t *testing.T) {
	x, q := tensor.New(3, 2), tensor.FromSlice(3, 2, []float32{1, 2, 3, 4, 5, 6})
	c := quant.NewPairCollector(2)
	c.AddPair(x, q, nil, 1)
	sums, tokens := c.Squares()
	require.Equal(t, 3, tokens)
	require.Equal(t, []float32{35, 56}, sums)
}
