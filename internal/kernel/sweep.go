package kernel

// ErrorCols ends the quantization of a column to deq: with t the column
// corrected for the errors of others, it sets e to e-deq, and adds
// d·(t-deq)² - lambda·e² to loss, in float64.
func ErrorCols(e []float32, loss []float64, t, deq []float32, d, lambda float64) {
	loss, t, deq = loss[:len(e)], t[:len(e)], deq[:len(e)]
	n := whole(len(e))
	switch {
	case n == 0:
	case level >= AVX512:
		errorColsAVX512(&e[0], &loss[0], &t[0], &deq[0], n, d, lambda)
	default:
		errorColsAVX2(&e[0], &loss[0], &t[0], &deq[0], n, d, lambda)
	}
	errorColsGo(e[n:], loss[n:], t[n:], deq[n:], d, lambda)
}

func errorColsGo(e []float32, loss []float64, t, deq []float32, d, lambda float64) {
	for i, q := range deq {
		x := float64(t[i] - q)
		e[i] -= q
		y := float64(e[i])
		loss[i] += float64(float64(d*x)*x) - float64(float64(lambda*y)*y)
	}
}
