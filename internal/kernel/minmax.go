package kernel

import "math"

// MinMax returns the least and the greatest element of x. Zeros come back as
// +0. If any element is NaN both are NaN; of no elements they are +Inf, -Inf.
func MinMax(x []float32) (lo, hi float32) {
	n := whole(len(x))
	if n == 0 {
		return minMaxGo(x)
	}
	var nan bool
	if level >= AVX512 {
		lo, hi, nan = minMaxAVX512(&x[0], n)
	} else {
		lo, hi, nan = minMaxAVX2(&x[0], n)
	}
	for _, v := range x[n:] {
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

// AllFinite tells whether x holds neither infinities nor NaN.
func AllFinite(x []float32) bool {
	n := whole(len(x))
	ok := true
	switch {
	case n == 0:
	case level >= AVX512:
		ok = allFiniteAVX512(&x[0], n)
	default:
		ok = allFiniteAVX2(&x[0], n)
	}
	return ok && allFiniteGo(x[n:])
}

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

func allFiniteGo(x []float32) bool {
	const exponent = 0x7f800000
	for _, v := range x {
		if math.Float32bits(v)&exponent == exponent {
			return false
		}
	}
	return true
}
