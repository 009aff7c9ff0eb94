package kernel

// SquareErr returns Σ weight·(scale·(u-zero) - w)² over a group, where
// u = clamp(round(w·(1/scale)) + zero, 0, maxq): 16 sums in float32, element
// i in sum i%16, added as a tree. It is for searching a grid, where what
// multiplying by the inverse may do to a tie does not matter.
func SquareErr(w, weight []float32, scale, zero, maxq float32) float64 {
	weight = weight[:len(w)]
	var s [16]float32
	n := squareErr(&s, w, weight, 1/scale, scale, zero, maxq)
	squareErrTerms(&s, w[n:], weight[n:], 1/scale, scale, zero, maxq)
	return float64(sumTree(&s))
}

func squareErrTerms(s *[16]float32, w, weight []float32, inverse, scale, zero, maxq float32) {
	for i, v := range w {
		u := roundEven(v*inverse) + zero
		u = min(max(u, 0), maxq)
		d := float32(scale*(u-zero)) - v
		s[i&15] += float32(weight[i] * float32(d*d))
	}
}
