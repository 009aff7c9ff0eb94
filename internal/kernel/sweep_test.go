package kernel

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestErrorCols(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for n := range 70 {
			e, x, deq := randoms(n+1, 1), randoms(n, 2), randoms(n, 3)
			loss, wantLoss := make([]float64, n+1), make([]float64, n)
			for i := range loss {
				loss[i] = r.Float64()
			}
			copy(wantLoss, loss)
			want := append([]float32(nil), e...)
			errorColsGo(want[:n], wantLoss, x, deq, 1.7, 0.3)
			lossAfter, after := loss[n], e[n]
			for i := range n {
				d, l := float64(x[i])-float64(deq[i]), float64(e[i])-float64(deq[i])
				require.InDelta(t, loss[i]+1.7*d*d-0.3*l*l, wantLoss[i], 1e-5)
			}
			ErrorCols(e[:n], loss, x, deq, 1.7, 0.3)
			require.Equal(t, want[:n], e[:n])
			require.Equal(t, wantLoss, loss[:n])
			require.Equal(t, after, e[n])
			require.Equal(t, lossAfter, loss[n])
		}
	})
}
