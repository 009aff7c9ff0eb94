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

// MulAdd adds the products x*y, each rounded to float32, to acc.
func MulAdd(acc []float64, x, y []float32) {
	acc, y = acc[:len(x)], y[:len(x)]
	n := whole(len(x))
	switch {
	case n == 0:
	case level >= AVX512:
		mulAddAVX512(&acc[0], &x[0], &y[0], n)
	default:
		mulAddAVX2(&acc[0], &x[0], &y[0], n)
	}
	mulAddGo(acc[n:], x[n:], y[n:])
}

func mulAddGo(acc []float64, x, y []float32) {
	for i, v := range x {
		acc[i] += float64(float32(v * y[i]))
	}
}
