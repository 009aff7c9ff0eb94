package quant_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestCollectorBF16: inputs that are bfloat16 already give the same H but for
// the order of sums; others come close, for any number of workers alike.
func TestCollectorBF16(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	x := tensor.New(301, 150)
	for i := range x.Data {
		x.Data[i] = float32(rnd.NormFloat64())
	}
	rounded := x.Clone()
	h := make([]uint16, len(x.Data))
	tensor.F32ToBF16(h, x.Data)
	tensor.BF16ToF32(rounded.Data, h)
	collect := func(x *tensor.Matrix, half bool, workers int) *quant.Calibration {
		c := quant.NewCollector(x.Cols)
		c.BF16 = half
		c.Add(x.View(0, 200, 0, x.Cols), workers)
		c.Add(x.View(200, 301, 0, x.Cols), workers)
		return c.Calibration()
	}
	want, got := collect(rounded, false, 1), collect(x, true, 1)
	if !tensor.HasBF16() {
		want = collect(x, false, 1)
	}
	require.InDeltaSlice(t, want.H.Data, got.H.Data, 1e-3)
	require.Equal(t, got.H.Data, collect(x, true, 3).H.Data)
	require.Equal(t, got.MeanAbs, collect(x, true, 3).MeanAbs)
	require.Equal(t, 301, got.Tokens)
}
