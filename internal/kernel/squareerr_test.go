package kernel

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSquareErrLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 7, 16, 17, 31, 64, 172, 1000} {
		w, weight := make([]float32, n), make([]float32, n)
		for i := range w {
			w[i], weight[i] = float32(r.NormFloat64()), r.Float32()
		}
		for range 20 {
			scale, zero := 0.01+r.Float32(), float32(r.IntN(16))
			var s [16]float32
			squareErrTerms(&s, w, weight, 1/scale, scale, zero, 15)
			require.Equal(t, float64(sumTree(&s)), SquareErr(w, weight, scale, zero, 15), "length %d", n)
		}
	}
	require.InDelta(t, 2*0.25, SquareErr([]float32{1.5}, []float32{2}, 1, 0, 1), 1e-7, "the code is clamped at 1")
}

func BenchmarkSquareErr(b *testing.B) {
	w, weight := make([]float32, 128), make([]float32, 128)
	for i := range w {
		w[i], weight[i] = float32(i)-64, 1
	}
	b.SetBytes(4 * 128)
	for b.Loop() {
		SquareErr(w, weight, 3, 7, 15)
	}
}
