//go:build !purego

package kernel

// errorCols does as many elements as it can and returns how many.
func errorCols(e []float32, loss []float64, t, deq []float32, d, lambda float64) int {
	n := whole(len(e))
	switch {
	case n == 0:
	case level >= AVX512:
		errorColsAVX512(&e[0], &loss[0], &t[0], &deq[0], n, d, lambda)
	default:
		errorColsAVX2(&e[0], &loss[0], &t[0], &deq[0], n, d, lambda)
	}
	return n
}
