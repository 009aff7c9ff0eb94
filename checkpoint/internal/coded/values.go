package coded

import "math"

// Values of codes.
var (
	e4m3 = floats(4, 3)
	e5m2 = floats(5, 2)
	i8   = func() []float32 {
		v := make([]float32, 256)
		for i := range v {
			v[i] = float32(int8(i))
		}
		return v
	}()
	e2m1 = func() []float32 {
		v := make([]float32, 16)
		for i := range v {
			v[i] = minifloat(i, 2, 1)
		}
		return v
	}()
	e8m0 = func() []float32 {
		v := make([]float32, 256)
		for i := range v {
			v[i] = float32(math.Ldexp(1, i-127))
		}
		v[255] = float32(math.NaN())
		return v
	}()
)

// floats are the values of floats of 8 bits. E4M3 has no infinities, and its only NaN has
// all bits set; E5M2 is a half float cut short.
func floats(exponent, fraction int) []float32 {
	v := make([]float32, 256)
	for i := range v {
		v[i] = minifloat(i, exponent, fraction)
		switch low := i & 127; {
		case exponent == 4 && low == 127, exponent == 5 && low > 124:
			v[i] = float32(math.NaN())
		case exponent == 5 && low == 124:
			v[i] = float32(math.Inf(1 - i>>7*2))
		}
	}
	return v
}

// minifloat is the value of a sign, an exponent and a fraction of so many bits.
func minifloat(code, exponent, fraction int) float32 {
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

// fits says whether BF16 holds all products of these scales with numbers of so many
// significant bits, which are neither very small nor very large.
func fits(scales []float32, bits int) bool {
	for _, s := range scales {
		a := math.Abs(float64(s))
		if a != 0 && !(a > 0x1p-90 && a < 0x1p90) {
			return false
		}
		if math.Float32bits(s)&(1<<(24-8+bits)-1)&(1<<23-1) != 0 { // BF16 has 8 of 24
			return false
		}
	}
	return true
}
