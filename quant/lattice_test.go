package quant_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestCoarserGrid: weights of 4 bits with a minimum lie nearer to a grid of 8 symmetric
// bits than the widest one has them, whatever the clip, and others stay.
func TestCoarserGrid(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 4))
	const n = 4096
	levels, normal := make([]float32, n), make([]float32, n)
	for g := 0; g < n; g += 32 {
		d, m := 0.01+0.1*rng.Float32(), -0.5*rng.Float32()
		for i := range 32 {
			levels[g+i] = m + d*float32(rng.IntN(16))
			normal[g+i] = float32(rng.NormFloat64())
		}
	}
	for _, clip := range []quant.Clip{quant.ClipNone, quant.ClipPower, quant.ClipInputs} {
		s := quant.Scheme{Bits: 8, GroupSize: 32, Symmetric: true, Clip: clip != quant.ClipNone, ClipInput: clip == quant.ClipInputs}
		loss := func(x []float32) (fitted, widest float64) {
			w, err := quant.RTN{}.Quantize(t.Context(), tensor.FromSlice(1, n, x), s, nil)
			require.NoError(t, err)
			for g := 0; g < n; g += 32 {
				var most float64
				for _, v := range x[g : g+32] {
					most = max(most, math.Abs(float64(v)))
				}
				step := most / 127.5
				for i, v := range x[g : g+32] {
					e := float64(v - w.Dequantize().At(0, g+i))
					fitted += e * e
					e = float64(v) - step*min(127, math.RoundToEven(float64(v)/step))
					widest += e * e
				}
			}
			return fitted, widest
		}
		fitted, widest := loss(levels)
		require.Less(t, fitted, widest/3, clip)
		fitted, widest = loss(normal)
		require.InEpsilon(t, widest, fitted, 0.05, clip)
	}
}
