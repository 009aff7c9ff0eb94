package kernel

import "math"

// MinMax returns the least and the greatest element of x. Zeros come back as
// +0. If any element is NaN both are NaN; of no elements they are +Inf, -Inf.
func MinMax(x []float32) (lo, hi float32) { return minMax(x) }

// MinMaxAcc sets lo to the elementwise minimum of lo and x, and hi to the
// maximum of hi and x. NaN in x changes nothing.
func MinMaxAcc(lo, hi, x []float32) {
	n := len(x)
	minMaxAcc(lo[:n], hi[:n], x)
}

// AllFinite tells whether x holds neither infinities nor NaN.
func AllFinite(x []float32) bool { return allFinite(x) }

func minMaxGo(x []float32) (lo, hi float32) {
	lo, hi = float32(math.Inf(1)), float32(math.Inf(-1))
	nan := false
	for _, v := range x {
		if v < lo {
			lo = v
		}
		if v > hi {
			hi = v
		}
		nan = nan || v != v
	}
	if nan {
		return float32(math.NaN()), float32(math.NaN())
	}
	return lo + 0, hi + 0
}

func minMaxAccGo(lo, hi, x []float32) {
	for i, v := range x {
		if v < lo[i] {
			lo[i] = v
		}
		if v > hi[i] {
			hi[i] = v
		}
	}
}

func allFiniteGo(x []float32) bool {
	const exponent = 0x7f800000
	for _, v := range x {
		if math.Float32bits(v)&exponent == exponent {
			return false
		}
	}
	return true
}
