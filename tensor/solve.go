package tensor

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
)

// CholeskyDamped factors the first of the matrices with damping d, 10d,
// 100d, … that is positive definite, in l, as Cholesky does. fill writes the
// lower triangle of the matrix with the given damping to l; it is called
// once for every attempt. The damping that was reached is returned, and
// false if there is none up to maxDamping: then the matrix is not finite, or
// damping is not positive and did not suffice.
//
// Damping is a fraction of the mean of the diagonal, so what is left of a
// matrix at maxDamping is a multiple of the identity.
func CholeskyDamped(l *Matrix, damping float64, fill func(damping float64), workers int) (reached float64, ok bool) {
	for {
		fill(damping)
		if Cholesky(l, workers) < 0 {
			return damping, true
		}
		if damping *= 10; !(damping > 0) || damping > maxDamping {
			return damping, false
		}
	}
}

const maxDamping = 1e3

// SolveLower solves op(L) X = B for X in place of B, where L [n, n] is lower
// triangular, B is [n, m] and op transposes if trans is set. The upper
// triangle of l is not read; its diagonal must not be 0.
func SolveLower(trans bool, l, b *Matrix, workers int) {
	if l.Rows != l.Cols || b.Rows != l.Rows {
		panic("tensor: triangular solve of mismatched shapes")
	}
	// Blocks of rows: the products carry the work.
	const nb = 64
	n, m := b.Rows, b.Cols
	if !trans {
		for i0 := 0; i0 < n; i0 += nb {
			i1 := min(i0+nb, n)
			if i0 > 0 {
				Gemm(false, false, -1, l.View(i0, i1, 0, i0), b.View(0, i0, 0, m), 1, b.View(i0, i1, 0, m), workers)
			}
			for i := i0; i < i1; i++ {
				row := b.Row(i)
				for j := i0; j < i; j++ {
					kernel.Axpy(-l.At(i, j), b.Row(j), row)
				}
				kernel.Scale(row, 1/l.At(i, i))
			}
		}
		return
	}
	for i1 := n; i1 > 0; i1 -= min(nb, i1) {
		i0 := max(i1-nb, 0)
		if i1 < n {
			Gemm(true, false, -1, l.View(i1, n, i0, i1), b.View(i1, n, 0, m), 1, b.View(i0, i1, 0, m), workers)
		}
		for i := i1 - 1; i >= i0; i-- {
			row := b.Row(i)
			for j := i + 1; j < i1; j++ {
				kernel.Axpy(-l.At(j, i), b.Row(j), row)
			}
			kernel.Scale(row, 1/l.At(i, i))
		}
	}
}

// CholeskySolve solves L Lᵀ X = B for X in place of B [n, m], given the
// factor l of Cholesky.
func CholeskySolve(l, b *Matrix, workers int) {
	SolveLower(false, l, b, workers)
	SolveLower(true, l, b, workers)
}

// CholeskySolveVec solves L Lᵀ x = b for x in place of b, given the factor l
// of Cholesky, in float64.
func CholeskySolveVec(l *Matrix, b []float64) {
	n := len(b)
	if l.Rows != n || l.Cols != n {
		panic("tensor: triangular solve of mismatched shapes")
	}
	for k := range n {
		row, sum := l.Row(k), b[k]
		for j, v := range row[:k] {
			sum -= float64(float64(v) * b[j])
		}
		b[k] = sum / float64(row[k])
	}
	for k := n - 1; k >= 0; k-- {
		row := l.Row(k)
		b[k] /= float64(row[k])
		for j, v := range row[:k] {
			b[j] -= float64(float64(v) * b[k])
		}
	}
}

// SolveSPD solves A x = b in float64 for small n = len(b), with A symmetric
// and positive definite, row-major [n, n]. Only its lower triangle is read;
// it is overwritten with the factor of Cholesky, and b with x. It returns
// false, with b as it was, if a pivot is not positive and finite.
func SolveSPD(a, b []float64) bool {
	n := len(b)
	if len(a) != n*n {
		panic("tensor: solve of mismatched shapes")
	}
	for k := range n {
		rk := a[k*n : k*n+k+1]
		for _, v := range rk[:k] {
			rk[k] -= float64(v * v)
		}
		if !(rk[k] > 0) || math.IsInf(rk[k], 0) {
			return false
		}
		d := math.Sqrt(rk[k])
		rk[k] = d
		for i := k + 1; i < n; i++ {
			ri := a[i*n : i*n+k+1]
			sum := ri[k]
			for j, v := range rk[:k] {
				sum -= float64(ri[j] * v)
			}
			ri[k] = sum / d
		}
	}
	for k := range n {
		sum := b[k]
		for j, v := range a[k*n : k*n+k] {
			sum -= float64(v * b[j])
		}
		b[k] = sum / a[k*n+k]
	}
	for k := n - 1; k >= 0; k-- {
		sum := b[k]
		for j := k + 1; j < n; j++ {
			sum -= float64(a[j*n+k] * b[j])
		}
		b[k] = sum / a[k*n+k]
	}
	return true
}
