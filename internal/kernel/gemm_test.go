package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"pgregory.net/rapid"
)

func randoms(n int, seed uint64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// at returns element (i, j) of op(x).
func at(x []float32, ld int, trans bool, i, j int) float64 {
	if trans {
		i, j = j, i
	}
	return float64(x[i*ld+j])
}

// within checks got against a float64 sum of k terms whose absolute values
// add up to size: the rounding of k float32 additions at most.
func within(t require.TestingT, want, size float64, k int, got float32, msg string) {
	if tol := (size + 1) * float64(k+4) * 0x1p-24; math.Abs(want-float64(got)) > tol || got != got {
		require.InDelta(t, want, got, tol, msg)
	}
}

func TestGemm(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			dim := rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(10, 70), rapid.SampledFrom([]int{96, 128, 300, 520}))
			m, n, k := dim.Draw(t, "m"), dim.Draw(t, "n"), dim.Draw(t, "k")
			ta, tb := rapid.Bool().Draw(t, "ta"), rapid.Bool().Draw(t, "tb")
			alpha := rapid.SampledFrom([]float32{1, -1, 0.5, 0}).Draw(t, "alpha")
			beta := rapid.SampledFrom([]float32{0, 1, -0.25}).Draw(t, "beta")
			pad := rapid.IntRange(0, 3).Draw(t, "pad")
			ra, ca := m, k
			if ta {
				ra, ca = k, m
			}
			rb, cb := k, n
			if tb {
				rb, cb = n, k
			}
			lda, ldb, ldc := ca+pad, cb+pad, n+pad
			a, b, c0 := randoms(ra*lda, 1), randoms(rb*ldb, 2), randoms(m*ldc, 3)
			c := append([]float32(nil), c0...)
			if beta == 0 {
				for i := range m {
					for j := range n {
						c[i*ldc+j] = float32(math.NaN())
					}
				}
			}
			Gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, 1)
			for i := range m {
				for j := range ldc {
					if j >= n {
						require.Equal(t, c0[i*ldc+j], c[i*ldc+j], "outside")
						continue
					}
					var sum, size float64
					for p := range k {
						v := at(a, lda, ta, i, p) * at(b, ldb, tb, p, j)
						sum += v
						size += math.Abs(v)
					}
					old := float64(beta) * float64(c0[i*ldc+j])
					within(t, float64(alpha)*sum+old, size+math.Abs(old), k, c[i*ldc+j], "element")
				}
			}
			for _, w := range []int{2, 5} {
				d := append([]float32(nil), c0...)
				Gemm(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, d, ldc, w)
				require.Equal(t, c, d, "workers")
			}
		})
	})
}

// Any panel of a product has the bits of the whole.
func TestGemmPanels(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const m, n, k = 61, 83, 700
		a, b := randoms(m*k, 1), randoms(k*n, 2)
		whole := make([]float32, m*n)
		Gemm(false, false, m, n, k, -1, a, k, b, n, 0, whole, n, 0)
		for _, cut := range []int{1, 7, 12, 40} {
			c := make([]float32, m*n)
			for i := 0; i < m; i += cut {
				for j := 0; j < n; j += cut {
					Gemm(false, false, min(cut, m-i), min(cut, n-j), k, -1, a[i*k:], k, b[j:], n, 0, c[i*n+j:], n, 1)
				}
			}
			require.Equal(t, whole, c, "cut %d", cut)
		}
	})
}

// AVX2 and AVX-512 fuse the same operations in the same order.
func TestFusedLevelsAgree(t *testing.T) {
	if level < AVX512 || level == NEON {
		t.Skip("needs AVX-512")
	}
	const m, n, k = 50, 70, 1111
	a, b := randoms(m*k, 1), randoms(k*n, 2)
	out := map[Level][]float32{}
	for _, l := range []Level{AVX2, AVX512} {
		atLevel(l, func() {
			out[l] = randoms(m*n, 3)
			Gemm(false, false, m, n, k, 0.3, a, k, b, n, 1, out[l], n, 2)
			y := randoms(n, 4)
			Axpy(0.7, b[:n], y)
			out[l] = append(out[l], y...)
		})
	}
	require.Equal(t, out[AVX2], out[AVX512])
}

func TestSyrkT(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := rapid.IntRange(0, 150).Draw(t, "n")
			k := rapid.OneOf(rapid.IntRange(0, 40), rapid.SampledFrom([]int{257, 600})).Draw(t, "k")
			pad := rapid.IntRange(0, 3).Draw(t, "pad")
			beta := rapid.SampledFrom([]float32{0, 1, 0.5}).Draw(t, "beta")
			lda, ldc := n+pad, n+pad
			a, c0 := randoms(k*lda, 1), randoms(n*ldc, 2)
			c := append([]float32(nil), c0...)
			SyrkT(n, k, 2, a, lda, beta, c, ldc, 1)
			for i := range n {
				for j := range ldc {
					if j > i {
						require.Equal(t, c0[i*ldc+j], c[i*ldc+j], "above the diagonal")
						continue
					}
					var sum, size float64
					for p := range k {
						v := 2 * at(a, lda, true, i, p) * at(a, lda, false, p, j)
						sum += v
						size += math.Abs(v)
					}
					old := float64(beta) * float64(c0[i*ldc+j])
					within(t, sum+old, size+math.Abs(old), k, c[i*ldc+j], "element")
				}
			}
			d := append([]float32(nil), c0...)
			SyrkT(n, k, 2, a, lda, beta, d, ldc, 3)
			require.Equal(t, c, d, "workers")
		})
	})
}

// rounded returns x as the products of bfloat16 see it at this level.
func rounded(x []float32) []float32 {
	if !HasBF16() {
		return x
	}
	h, out := make([]uint16, len(x)), make([]float32, len(x))
	F32ToBF16(h, x)
	BF16ToF32(out, h)
	return out
}

func TestGemmBF16(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			dim := rapid.OneOf(rapid.IntRange(0, 9), rapid.IntRange(10, 70), rapid.SampledFrom([]int{96, 128, 300}))
			m, n := dim.Draw(t, "m"), dim.Draw(t, "n")
			k := rapid.OneOf(dim, rapid.SampledFrom([]int{1025, 1200})).Draw(t, "k")
			ta, tb := rapid.Bool().Draw(t, "ta"), rapid.Bool().Draw(t, "tb")
			beta := rapid.SampledFrom([]float32{0, 1}).Draw(t, "beta")
			pad := rapid.IntRange(0, 3).Draw(t, "pad")
			ra, ca, rb, cb := m, k, k, n
			if ta {
				ra, ca = k, m
			}
			if tb {
				rb, cb = n, k
			}
			lda, ldb, ldc := ca+pad, cb+pad, n+pad
			a, b, c0 := randoms(ra*lda, 1), randoms(rb*ldb, 2), randoms(m*ldc, 3)
			c := append([]float32(nil), c0...)
			GemmBF16(ta, tb, m, n, k, -1, a, lda, b, ldb, beta, c, ldc, 1)
			x, y := rounded(a), rounded(b)
			for i := range m {
				for j := range ldc {
					if j >= n {
						require.Equal(t, c0[i*ldc+j], c[i*ldc+j], "outside")
						continue
					}
					var sum, size float64
					for p := range k {
						v := at(x, lda, ta, i, p) * at(y, ldb, tb, p, j)
						sum += v
						size += math.Abs(v)
					}
					old := float64(beta) * float64(c0[i*ldc+j])
					within(t, old-sum, size+math.Abs(old), k, c[i*ldc+j], "element")
				}
			}
			d := append([]float32(nil), c0...)
			GemmBF16(ta, tb, m, n, k, -1, a, lda, b, ldb, beta, d, ldc, 3)
			require.Equal(t, c, d, "workers")
		})
	})
}

func TestSyrkTBF16(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, s := range [][2]int{{1, 1}, {50, 33}, {130, 1100}} {
			n, k := s[0], s[1]
			a, c := randoms(k*n, 1), make([]float32, n*n)
			SyrkTBF16(n, k, 1, a, n, 0, c, n, 2)
			x := rounded(a)
			for i := range n {
				for j := range i + 1 {
					var sum, size float64
					for p := range k {
						v := float64(x[p*n+i]) * float64(x[p*n+j])
						sum += v
						size += math.Abs(v)
					}
					within(t, sum, size, k, c[i*n+j], "element")
				}
				for j := i + 1; j < n; j++ {
					require.Zero(t, c[i*n+j])
				}
			}
		}
	})
}

func BenchmarkGemmBF16(b *testing.B) {
	for _, n := range []int{1024, 2048} {
		x, y, z := randoms(n*n, 1), randoms(n*n, 2), make([]float32, n*n)
		for name, f := range map[string]func(w int){
			"float32": func(w int) { Gemm(false, true, n, n, n, 1, x, n, y, n, 0, z, n, w) },
			"rounded": func(w int) { GemmBF16(false, true, n, n, n, 1, x, n, y, n, 0, z, n, w) },
		} {
			for _, w := range []int{1, 2} {
				b.Run(fmt.Sprintf("n=%d/workers=%d/%s", n, w, name), func(b *testing.B) {
					for b.Loop() {
						f(w)
					}
					b.ReportMetric(2*float64(n)*float64(n)*float64(n)*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
				})
			}
		}
	}
}

func TestTranspose(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, s := range [][2]int{{0, 3}, {1, 1}, {5, 40}, {16, 16}, {33, 300}, {270, 530}} {
			rows, cols := s[0], s[1]
			src, dst := randoms(rows*(cols+1), 1), randoms(cols*(rows+2), 2)
			old := append([]float32(nil), dst...)
			Transpose(dst, rows+2, src, cols+1, rows, cols, 0)
			for j := range cols {
				for i := range rows {
					require.Equal(t, src[i*(cols+1)+j], dst[j*(rows+2)+i])
				}
				require.Equal(t, old[j*(rows+2)+rows:(j+1)*(rows+2)], dst[j*(rows+2)+rows:(j+1)*(rows+2)])
			}
		}
	})
}

func BenchmarkTranspose(b *testing.B) {
	const n = 4096
	src, dst := randoms(n*n, 1), make([]float32, n*n)
	benchLevels(b, "n=4096", func(b *testing.B) {
		b.SetBytes(4 * n * n)
		for b.Loop() {
			Transpose(dst, n, src, n, n, n, 1)
		}
	})
}

func TestShapePanics(t *testing.T) {
	x := make([]float32, 12)
	require.Panics(t, func() { Gemm(false, false, 4, 4, 4, 1, x, 4, x, 4, 0, x, 4, 1) })
	require.Panics(t, func() { SyrkT(4, 2, 1, x[:8], 4, 0, x, 4, 1) })
}

func BenchmarkGemm(b *testing.B) {
	for _, n := range []int{256, 1024, 2048, 4096} {
		x, y, z := randoms(n*n, 1), randoms(n*n, 2), make([]float32, n*n)
		for _, w := range []int{1, 2} {
			flops := func(b *testing.B) {
				b.ReportMetric(2*float64(n)*float64(n)*float64(n)*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
			}
			benchLevels(b, fmt.Sprintf("n=%d/workers=%d", n, w), func(b *testing.B) {
				for b.Loop() {
					Gemm(false, false, n, n, n, 1, x, n, y, n, 0, z, n, w)
				}
				flops(b)
			})
		}
		b.Run(fmt.Sprintf("n=%d/gonum", n), func(b *testing.B) {
			if n > 2048 {
				b.Skip("takes too long")
			}
			gm := func(d []float32) blas32.General { return blas32.General{Rows: n, Cols: n, Stride: n, Data: d} }
			for b.Loop() {
				blas32.Gemm(blas.NoTrans, blas.NoTrans, 1, gm(x), gm(y), 0, gm(z))
			}
			b.ReportMetric(2*float64(n)*float64(n)*float64(n)*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
		})
	}
}

func TestPeak(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		require.Zero(t, Peak(0))
		require.Equal(t, 10*Peak(3), Peak(30))
	})
}

func BenchmarkPeak(b *testing.B) {
	benchLevels(b, "fma", func(b *testing.B) {
		var flops float64
		for b.Loop() {
			flops += Peak(100_000)
		}
		b.ReportMetric(flops/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
	})
}
