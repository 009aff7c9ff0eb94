package kernel

// Gemm computes C = alpha*op(A)*op(B) + beta*C for row-major matrices;
// op(A) is m x k, op(B) is k x n.
func Gemm(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int, workers int) {
	for i := range m {
		row := c[i*ldc : i*ldc+n]
		for j := range row {
			row[j] = beta * row[j]
			if beta == 0 {
				row[j] = 0
			}
		}
		for p := range k {
			var av float32
			if transA {
				av = a[p*lda+i]
			} else {
				av = a[i*lda+p]
			}
			av *= alpha
			if transB {
				for j := range row {
					row[j] += float32(av * b[j*ldb+p])
				}
			} else {
				for j, bv := range b[p*ldb : p*ldb+n] {
					row[j] += float32(av * bv)
				}
			}
		}
	}
}

// SyrkT computes the lower triangle of C = alpha*AᵀA + beta*C, A is k x n.
func SyrkT(n, k int, alpha float32, a []float32, lda int, beta float32, c []float32, ldc int, workers int) {
	for i := range n {
		row := c[i*ldc : i*ldc+i+1]
		for j := range row {
			row[j] *= beta
		}
		for p := range k {
			av := alpha * a[p*lda+i]
			for j, v := range a[p*lda : p*lda+i+1] {
				row[j] += float32(av * v)
			}
		}
	}
}
