// Package minifloat has the values of floats of 8 and 4 bits, by their codes (OCP 8-bit
// Floating Point 1.0; OCP Microscaling Formats 1.0).
package minifloat

import "math"

// Values of codes. E8M0 are powers of two, and NaN.
var (
	E4M3 = floats(4, 3)
	E5M2 = floats(5, 2)
	E2M1 = func() (v [16]float32) {
		for i := range v {
			v[i] = value(i, 2, 1)
		}
		return v
	}()
	E8M0 = func() (v [256]float32) {
		for i := range v {
			v[i] = float32(math.Ldexp(1, i-127))
		}
		v[255] = float32(math.NaN())
		return v
	}()
)

// floats are the values of floats of 8 bits. E4M3 has no infinities, and its only NaN has
// all bits set; E5M2 is a half float cut short.
func floats(exponent, fraction int) (v [256]float32) {
	for i := range v {
		v[i] = value(i, exponent, fraction)
		switch low := i & 127; {
		case exponent == 4 && low == 127, exponent == 5 && low > 124:
			v[i] = float32(math.NaN())
		case exponent == 5 && low == 124:
			v[i] = float32(math.Inf(1 - i>>7*2))
		}
	}
	return v
}

// value is that of a sign, an exponent and a fraction of so many bits.
func value(code, exponent, fraction int) float32 {
	bias := 1<<(exponent-1) - 1
	e, f := code>>fraction&(1<<exponent-1), code&(1<<fraction-1)
	if e == 0 {
		e = 1
	} else {
		f |= 1 << fraction
	}
	v := math.Ldexp(float64(f), e-bias-fraction)
	if code>>(exponent+fraction)&1 == 1 {
		v = -v
	}
	return float32(v)
}
