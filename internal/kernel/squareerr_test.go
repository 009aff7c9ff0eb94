package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// The definition in float64.
func TestSquareErr(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		w, weight := randoms(172, 1), randoms(172, 2)
		var want float64
		for i, v := range w {
			weight[i] *= weight[i]
			u := min(max(math.RoundToEven(float64(v*(1/float32(0.3))))+7, 0), 15)
			d := float64(float32(0.3))*(u-7) - float64(v)
			want += float64(weight[i]) * d * d
		}
		require.InEpsilon(t, want, SquareErr(w, weight, 0.3, 7, 15), 2e-6)
		require.InDelta(t, 2*0.25, SquareErr([]float32{1.5}, []float32{2}, 1, 0, 1), 1e-7, "the code is clamped at 1")
	})
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
