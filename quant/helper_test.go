package quant_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var normal, codes, schemes = testkit.Normal, testkit.Codes, testkit.Scheme

func shape(t *rapid.T) (out, in int) {
	return rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 40).Draw(t, "in")
}

// weights draws a weight with rows of different scale, groups of one sign
// and zeros.
func weights(t *rapid.T, out, in int) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	w := tensor.New(out, in)
	for r := range out {
		f := math.Exp2(float64(rng.IntN(8) - 4))
		for j := range in {
			v := rng.NormFloat64()
			switch {
			case kind == 1:
				v = 1 + v/100
			case kind == 2 && rng.IntN(2) == 0:
				v = 0
			case kind == 3:
				v = -math.Exp(1.5 * v)
			}
			w.Set(r, j, float32(v*f))
		}
	}
	return w
}

func rtn(t require.TestingT, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) *quant.Weight {
	q, err := quant.RTN{Workers: 1}.Quantize(context.Background(), w, s, cal)
	require.NoError(t, err)
	require.NoError(t, q.Validate())
	return q
}

// one quantizes a single group with axis OC.
func one(t require.TestingT, s quant.Scheme, x ...float32) (*quant.Weight, []float32) {
	s.GroupSize = quant.WholeLine
	q := rtn(t, tensor.FromSlice(1, len(x), x), s, nil)
	return q, q.Dequantize().Data
}

func workersAgree(t *testing.T, f func(workers int) *quant.Weight) {
	t.Helper()
	require.Equal(t, f(1), f(8))
}
