package tensor

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
)

// Gemm computes c = alpha*op(a)*op(b) + beta*c, where op transposes if
// transA or transB is set. With beta 0 the old content of c is not read.
// workers is the number of goroutines; 0 means GOMAXPROCS. The result does
// not depend on it.
func Gemm(transA, transB bool, alpha float32, a, b *Matrix, beta float32, c *Matrix, workers int) {
	m, n, k := productShape(transA, transB, a, b, c)
	kernel.Gemm(transA, transB, m, n, k, alpha, a.Data, a.Stride, b.Data, b.Stride, beta, c.Data, c.Stride, workers)
}

// Few is up to how many rows of x MulT is faster than Gemm.
const Few = 4

// MulT computes c = x wᵀ + beta*c for x [rows, n] of few rows, w [out, n] and c [rows, out]: every row of w
// is read once, for all rows of x. With beta 0 the old content of c is not read.
// workers is the number of goroutines; 0 means GOMAXPROCS. The result does not depend on it.
func MulT(x, w *Matrix, beta float32, c *Matrix, workers int) {
	productShape(false, true, x, w, c)
	const band = 64 // rows of w
	parallel.Each(parallel.Workers(workers), (w.Rows+band-1)/band, func(_, b int) {
		for j := b * band; j < min((b+1)*band, w.Rows); j++ {
			row := w.Row(j)
			for i := range x.Rows {
				y := &c.Data[i*c.Stride+j]
				if v := kernel.Dot(x.Row(i), row); beta == 0 {
					*y = v
				} else {
					*y = v + float32(beta**y)
				}
			}
		}
	})
}

// SyrkT adds xᵀx to the lower triangle of h, which must be x.Cols square.
// The upper triangle is neither read nor written.
func SyrkT(x, h *Matrix, workers int) {
	if h.Rows != x.Cols || h.Cols != x.Cols {
		panic("tensor: rank-k update of mismatched shapes")
	}
	kernel.SyrkT(x.Cols, x.Rows, 1, x.Data, x.Stride, 1, h.Data, h.Stride, workers)
}

// Cholesky factors the symmetric matrix whose lower triangle is in a, in
// place, into L with a = L Lᵀ; the upper triangle is neither read nor
// written. It returns -1, or the index of the first pivot that is not
// positive and finite; then the content of a is undefined.
func Cholesky(a *Matrix, workers int) int {
	if a.Rows != a.Cols {
		panic("tensor: factorization of a matrix that is not square")
	}
	return kernel.Cholesky(a.Rows, a.Data, a.Stride, workers)
}

// HasBF16 tells whether the products named BF16 run on this CPU's bfloat16
// instructions. Where they do not, they are the float32 products.
func HasBF16() bool { return kernel.HasBF16() }

// Mirror copies the lower triangle of h, which must be square, to the upper: what SyrkT
// leaves to do for all of xᵀx.
func Mirror(h *Matrix) {
	for i := range h.Rows {
		for j, v := range h.Row(i)[:i] {
			h.Data[j*h.Stride+i] = v
		}
	}
}

// GemmBF16 is Gemm with the elements of a and b rounded to bfloat16 and
// float32 sums, if HasBF16: about twice as fast, for data that is bfloat16
// anyway.
func GemmBF16(transA, transB bool, alpha float32, a, b *Matrix, beta float32, c *Matrix, workers int) {
	m, n, k := productShape(transA, transB, a, b, c)
	kernel.GemmBF16(transA, transB, m, n, k, alpha, a.Data, a.Stride, b.Data, b.Stride, beta, c.Data, c.Stride, workers)
}

// SyrkTBF16 is SyrkT with the elements of x rounded to bfloat16, if HasBF16.
func SyrkTBF16(x, h *Matrix, workers int) {
	if h.Rows != x.Cols || h.Cols != x.Cols {
		panic("tensor: rank-k update of mismatched shapes")
	}
	kernel.SyrkTBF16(x.Cols, x.Rows, 1, x.Data, x.Stride, 1, h.Data, h.Stride, workers)
}

// productShape returns m, n and k of c = op(a)*op(b).
func productShape(transA, transB bool, a, b, c *Matrix) (m, n, k int) {
	m, k = a.Rows, a.Cols
	if transA {
		m, k = k, m
	}
	kb, n := b.Rows, b.Cols
	if transB {
		kb, n = n, kb
	}
	if k != kb || c.Rows != m || c.Cols != n {
		panic("tensor: product of mismatched shapes")
	}
	return m, n, k
}
