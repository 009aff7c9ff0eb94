//go:build amd64 && !purego

package kernel

// squareErr adds the terms of as many elements as it can do at once, a
// multiple of 16, and returns how many.
func squareErr(s *[16]float32, w, weight []float32, inverse, scale, zero, maxq float32) int {
	n := len(w) &^ 15
	switch {
	case n == 0 || level < AVX2:
		return 0
	case level >= AVX512:
		squareErrAVX512(&s[0], &w[0], &weight[0], n, inverse, scale, zero, maxq)
	default:
		squareErrAVX2(&s[0], &w[0], &weight[0], n, inverse, scale, zero, maxq)
	}
	return n
}
