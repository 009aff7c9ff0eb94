package kernel

import (
	"math"

	"github.com/golowbit/lowbit/internal/parallel"
)

// diagBlock is the size of the diagonal blocks that are factored and
// inverted directly, in float64. Everything else is products.
const diagBlock = 64

// Cholesky factors the lower triangle of A in place, A = L Lᵀ, and returns
// -1 or the index of the first pivot that is not positive and finite. The
// rest of A is neither read nor written.
//
// It is the recursive algorithm of Gustavson (IBM J. Res. Dev. 41, 1997):
// factor the leading half, solve for the rows below it, update the trailing
// half, factor that. Triangular solves multiply with inverted diagonal
// blocks (Du Croz and Higham, IMA J. Numer. Anal. 12, 1992).
func Cholesky(n int, a []float32, lda int, workers int) int {
	if n <= 0 {
		return -1
	}
	if lda < n || len(a) < (n-1)*lda+n {
		panic("kernel: matrix shorter than its shape")
	}
	inv := getScratch(roundUp(n, diagBlock) * diagBlock)
	defer putScratch(inv)
	return cholesky(n, a, lda, inv.buf, parallel.Workers(workers))
}

// cholesky also leaves the inverses of the diagonal blocks in inv.
func cholesky(n int, a []float32, lda int, inv []float32, workers int) int {
	if n <= diagBlock {
		return choleskyBlock(n, a, lda, inv)
	}
	n1 := roundUp(n/2, diagBlock)
	n2 := n - n1
	if r := cholesky(n1, a, lda, inv, workers); r >= 0 {
		return r
	}
	below, rest := a[n1*lda:], a[n1*lda+n1:]
	solveRightT(n2, n1, a, lda, inv, below, lda, workers)
	syrk(n2, n1, -1, below, lda, 1, rest, lda, workers)
	if r := cholesky(n2, rest, lda, inv[n1*diagBlock:], workers); r >= 0 {
		return n1 + r
	}
	return -1
}

// Below this many columns a triangular solve is cut by rows among the
// workers, above it each of its products is.
const solveByRows = 256

// rowTask is the number of rows of such a piece.
const rowTask = 192

// solveRightT sets X to X L⁻ᵀ, given the inverted diagonal blocks of L.
func solveRightT(m, n int, l []float32, ldl int, inv []float32, x []float32, ldx int, workers int) {
	if workers > 1 && n <= solveByRows {
		parallel.Each(workers, (m+rowTask-1)/rowTask, func(_, t int) {
			i := t * rowTask
			solveRightT(min(rowTask, m-i), n, l, ldl, inv, x[i*ldx:], ldx, 1)
		})
		return
	}
	if n <= diagBlock {
		timesBlock(m, n, inv, x, ldx)
		return
	}
	n1 := roundUp(n/2, diagBlock)
	solveRightT(m, n1, l, ldl, inv, x, ldx, workers)
	Gemm(false, true, m, n-n1, n1, -1, x, ldx, l[n1*ldl:], ldl, 1, x[n1:], ldx, workers)
	solveRightT(m, n-n1, l[n1*ldl+n1:], ldl, inv[n1*diagBlock:], x[n1:], ldx, workers)
}

// timesBlock sets the n ≤ diagBlock columns of X to X·invᵀ.
func timesBlock(m, n int, inv []float32, x []float32, ldx int) {
	old := getScratch(min(m, rowTask) * n)
	defer putScratch(old)
	for i := 0; i < m; i += rowTask {
		mb := min(rowTask, m-i)
		for r := range mb {
			copy(old.buf[r*n:(r+1)*n], x[(i+r)*ldx:(i+r)*ldx+n])
		}
		Gemm(false, true, mb, n, n, 1, old.buf, n, inv, diagBlock, 0, x[i*ldx:], ldx, 1)
	}
}

// choleskyBlock factors a block of n ≤ diagBlock and inverts the factor.
func choleskyBlock(n int, a []float32, lda int, inv []float32) int {
	var l [diagBlock * diagBlock]float64
	for j := range n {
		for c, v := range a[j*lda : j*lda+j+1] {
			l[j*diagBlock+c] = float64(v)
		}
	}
	for j := range n {
		rj := l[j*diagBlock : j*diagBlock+j+1]
		s := rj[j] - dot64(rj[:j], rj[:j])
		if !(s > 0) || math.IsInf(s, 0) {
			return j
		}
		d := math.Sqrt(s)
		rj[j] = d
		for i := j + 1; i < n; i++ {
			ri := l[i*diagBlock : i*diagBlock+j+1]
			ri[j] = (ri[j] - dot64(ri[:j], rj[:j])) / d
		}
	}
	for j := range n {
		row := a[j*lda : j*lda+j+1]
		for c := range row {
			row[c] = float32(l[j*diagBlock+c])
		}
	}
	invertBlock(n, &l, inv)
	return -1
}

// invertBlock writes the inverse of the lower triangle l, zeros above, to
// inv, whose rows are diagBlock apart.
func invertBlock(n int, l *[diagBlock * diagBlock]float64, inv []float32) {
	var t [diagBlock * diagBlock]float64 // the inverse, transposed
	for j := range n {
		tj := t[j*diagBlock : j*diagBlock+n]
		tj[j] = 1 / l[j*diagBlock+j]
		for i := j + 1; i < n; i++ {
			li := l[i*diagBlock : i*diagBlock+i+1]
			tj[i] = -dot64(li[j:i], tj[j:i]) / li[i]
		}
	}
	for i := range n {
		row := inv[i*diagBlock : i*diagBlock+n]
		for j := range row {
			row[j] = float32(t[j*diagBlock+i])
		}
	}
}

// dot64 has four sums in flight.
func dot64(a, b []float64) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0] * b[0])
		s1 += float64(a[1] * b[1])
		s2 += float64(a[2] * b[2])
		s3 += float64(a[3] * b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += float64(v * b[i])
	}
	return (s0 + s2) + (s1 + s3)
}
