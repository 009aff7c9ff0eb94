package nn

import "math"

// Softplus is ln(1+exp(v)).
func Softplus(v float32) float64 {
	if v > 20 {
		return float64(v)
	}
	return math.Log1p(math.Exp(float64(v)))
}

// Advance sets h to decay*h + in*b and returns the product of c with it.
func Advance(h, decay, b, c []float32, in float32) float32 {
	var y float32
	decay, b, c = decay[:len(h)], b[:len(h)], c[:len(h)]
	for j, v := range h {
		v = float32(decay[j]*v) + float32(in*b[j])
		h[j] = v
		y += float32(v * c[j])
	}
	return y
}

// AdvanceEven is Advance with the same decay everywhere.
func AdvanceEven(h, b, c []float32, decay, in float32) float32 {
	b, c = b[:len(h)], c[:len(h)]
	var y float32
	for j, v := range h {
		v = float32(decay*v) + float32(in*b[j])
		h[j] = v
		y += float32(v * c[j])
	}
	return y
}

// Unit sets dst to src divided by its length, times a factor.
func Unit(dst, src []float32, factor float64) {
	var sum float64
	for _, v := range src {
		sum += float64(v) * float64(v)
	}
	f := float32(factor / math.Sqrt(sum+1e-6))
	for i, v := range src {
		dst[i] = v * f
	}
}
