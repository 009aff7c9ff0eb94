package kernel

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The definition in float64.
func TestErrorCols(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const n, d, lambda = 70, 1.7, 0.3
		e, x, deq := randoms(n, 1), randoms(n, 2), randoms(n, 3)
		loss := make([]float64, n)
		after := append([]float32(nil), e...)
		ErrorCols(after, loss, x, deq, d, lambda)
		for i := range n {
			p, q := float64(x[i])-float64(deq[i]), float64(e[i])-float64(deq[i])
			require.InDelta(t, d*p*p-lambda*q*q, loss[i], 1e-5)
			require.InDelta(t, q, after[i], 1e-6)
		}
	})
}

func TestMulAdd(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const n = 70
		x, y, acc := randoms(n, 1), randoms(n, 2), make([]float64, n)
		for i := range acc {
			acc[i] = float64(i)
		}
		MulAdd(acc, x, y)
		for i := range n {
			require.InDelta(t, float64(i)+float64(x[i])*float64(y[i]), acc[i], 1e-6)
		}
	})
}
