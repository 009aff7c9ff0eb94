package kernel

// SquareErr returns Σ weight·(scale·(u-zero) - w)² over a group, where
// u = clamp(round(w·(1/scale)) + zero, 0, maxq): 16 sums in float32, element
// i in sum i%16, added as a tree. It multiplies by the inverse of the scale
// where QuantRow divides, so that w/scale next to a tie may get the
// neighbouring code: good enough for comparing grids, not for codes that are
// stored.
func SquareErr(w, weight []float32, scale, zero, maxq float32) float64 {
	weight = weight[:len(w)]
	var s [16]float32
	inverse := 1 / scale
	n := 0
	if level >= AVX2 {
		n = len(w) &^ 15
	}
	switch {
	case n == 0:
	case level >= AVX512:
		squareErrAVX512(&s[0], &w[0], &weight[0], n, inverse, scale, zero, maxq)
	default:
		squareErrAVX2(&s[0], &w[0], &weight[0], n, inverse, scale, zero, maxq)
	}
	if n < len(w) {
		squareErrTerms(&s, w[n:], weight[n:], inverse, scale, zero, maxq)
	}
	return float64(sumTree(&s))
}

func squareErrTerms(s *[16]float32, w, weight []float32, inverse, scale, zero, maxq float32) {
	for i, v := range w {
		u := clampCode(roundEven(v*inverse)+zero, maxq)
		d := float32(scale*(u-zero)) - v
		s[i&15] += float32(weight[i] * float32(d*d))
	}
}
