package kernel

// ErrorCols ends the quantization of a column to deq: with t the column
// corrected for the errors of others, it sets e to e-deq, and adds
// d·(t-deq)² - lambda·e² to loss, in float64.
func ErrorCols(e []float32, loss []float64, t, deq []float32, d, lambda float64) {
	n := len(e)
	loss, t, deq = loss[:n], t[:n], deq[:n]
	done := errorCols(e, loss, t, deq, d, lambda)
	errorColsGo(e[done:], loss[done:], t[done:], deq[done:], d, lambda)
}

func errorColsGo(e []float32, loss []float64, t, deq []float32, d, lambda float64) {
	for i, q := range deq {
		x := float64(t[i] - q)
		e[i] -= q
		y := float64(e[i])
		loss[i] += float64(float64(d*x)*x) - float64(float64(lambda*y)*y)
	}
}
