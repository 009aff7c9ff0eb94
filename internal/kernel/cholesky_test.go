package kernel

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// positive returns a well-conditioned symmetric matrix, both triangles.
func positive(n, ld int) []float32 {
	x := randoms(2*n*n, uint64(n))
	a := make([]float32, n*ld)
	SyrkT(n, 2*n, 1, x, n, 0, a, ld, 0)
	for i := range n {
		a[i*ld+i] += float32(n) / 10
		for j := range i {
			a[j*ld+i] = a[i*ld+j]
		}
	}
	return a
}

func TestCholesky(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 2, 3, 17, 63, 64, 65, 128, 200, 389} {
			ld := n + 3
			a := positive(n, ld)
			l := append([]float32(nil), a...)
			require.Equal(t, -1, Cholesky(n, l, ld, 1))
			for i := range n {
				for j := range ld {
					if j > i {
						require.Equal(t, a[i*ld+j], l[i*ld+j], "above the diagonal")
						continue
					}
					var sum, size float64
					for p := range j + 1 {
						v := float64(l[i*ld+p]) * float64(l[j*ld+p])
						sum += v
						size += math.Abs(v)
					}
					require.InDelta(t, a[i*ld+j], sum, 4*size*0x1p-23, "n %d (%d, %d)", n, i, j)
				}
			}
			for _, w := range []int{2, 5} {
				m := append([]float32(nil), a...)
				require.Equal(t, -1, Cholesky(n, m, ld, w))
				require.Equal(t, l, m, "workers")
			}
		}
	})
}

func TestCholeskyPivot(t *testing.T) {
	for _, n := range []int{1, 5, 70, 200} {
		for _, bad := range []int{0, n / 2, n - 1} {
			for _, v := range []float32{0, -1, float32(math.NaN()), float32(math.Inf(1))} {
				a := positive(n, n)
				if v == 0 || v == -1 {
					for j := range bad {
						a[bad*n+j] = 0
					}
				}
				a[bad*n+bad] = v
				require.Equal(t, bad, Cholesky(n, a, n, 2), "n %d, pivot %g", n, v)
			}
		}
	}
}

func BenchmarkCholesky(b *testing.B) {
	for _, n := range []int{512, 1024, 2048, 4096} {
		a := positive(n, n)
		l := make([]float32, n*n)
		for _, w := range []int{1, 2} {
			benchLevels(b, fmt.Sprintf("n=%d/workers=%d", n, w), func(b *testing.B) {
				if level == Generic && n > 1024 {
					b.Skip("takes too long")
				}
				for b.Loop() {
					b.StopTimer()
					copy(l, a)
					b.StartTimer()
					Cholesky(n, l, n, w)
				}
				b.ReportMetric(float64(n)*float64(n)*float64(n)/3*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
			})
		}
	}
}

func BenchmarkSyrkT(b *testing.B) {
	for _, s := range [][2]int{{2048, 2048}, {4096, 16384}} {
		n, k := s[0], s[1]
		x, h := randoms(n*k, 1), make([]float32, n*n)
		for _, w := range []int{1, 2} {
			benchLevels(b, fmt.Sprintf("%dx%d/workers=%d", k, n, w), func(b *testing.B) {
				if level == Generic {
					b.Skip("takes too long")
				}
				for b.Loop() {
					SyrkT(n, k, 1, x, n, 1, h, n, w)
				}
				b.ReportMetric(float64(n)*float64(n+1)*float64(k)*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
			})
		}
	}
}
