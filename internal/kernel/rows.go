package kernel

import "math"

// Row operations of a transformer. Between levels they differ by rounding.

// Axpy adds alpha*x to y, fused where the level has it.
func Axpy(alpha float32, x, y []float32) {
	y = y[:len(x)]
	switch {
	case len(x) == 0:
	case level >= AVX512:
		axpyAVX512(alpha, &x[0], &y[0], len(x))
	case level == AVX2:
		axpyAVX2(alpha, &x[0], &y[0], len(x))
	default:
		axpyGo(alpha, x, y)
	}
}

// Dot returns Σ a·b of vectors of the same length.
func Dot(a, b []float32) float32 { return dot(a, b[:len(a)]) }

// dot returns Σ a·b.
func dot(a, b []float32) float32 {
	n := whole(len(a))
	switch {
	case n == 0:
		return dotGo(a, b)
	case level >= AVX512:
		return dotAVX512(&a[0], &b[0], n) + dotGo(a[n:], b[n:])
	}
	return dotAVX2(&a[0], &b[0], n) + dotGo(a[n:], b[n:])
}

// ExpShift sets x to exp(scale·(x-hi)) and returns the sum; hi is at least the
// largest element and scale is positive. It errs by a few units in the last
// place; what should be less than exp(-87) becomes 0.
func ExpShift(x []float32, scale, hi float32) float32 {
	n := whole(len(x))
	switch {
	case n == 0:
		return expShiftGo(x, scale, hi)
	case level >= AVX512:
		return expShiftAVX512(&x[0], n, scale, hi) + expShiftGo(x[n:], scale, hi)
	}
	return expShiftAVX2(&x[0], n, scale, hi) + expShiftGo(x[n:], scale, hi)
}

// Scale multiplies x by f.
func Scale(x []float32, f float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case level >= AVX512:
		scaleByAVX512(&x[0], n, f)
	default:
		scaleByAVX2(&x[0], n, f)
	}
	scaleByGo(x[n:], f)
}

// LogSumExp returns log Σ exp(x), -Inf for no elements.
func LogSumExp(x []float32) float64 {
	if len(x) == 0 {
		return math.Inf(-1)
	}
	_, hi := MinMax(x)
	if math.IsInf(float64(hi), 0) || hi != hi {
		return float64(hi)
	}
	return float64(hi) + math.Log(sumExp(x, hi))
}

// sumExp returns Σ exp(x-hi).
func sumExp(x []float32, hi float32) float64 {
	const run = 512 // elements summed in float32
	var sum float64
	for len(x) >= 16 && level >= AVX2 {
		n := whole(min(len(x), run))
		if level >= AVX512 {
			sum += float64(sumExpAVX512(&x[0], n, hi))
		} else {
			sum += float64(sumExpAVX2(&x[0], n, hi))
		}
		x = x[n:]
	}
	return sum + sumExpGo(x, hi)
}

// SiLUMul sets dst to gate/(1+exp(-gate))·up.
func SiLUMul(dst, gate, up []float32) {
	gate, up = gate[:len(dst)], up[:len(dst)]
	n := whole(len(dst))
	switch {
	case n == 0:
	case level >= AVX512:
		siluMulAVX512(&dst[0], &gate[0], &up[0], n)
	default:
		siluMulAVX2(&dst[0], &gate[0], &up[0], n)
	}
	siluMulGo(dst[n:], gate[n:], up[n:])
}

// RMSNorm sets dst to gain·x/√(mean(x²)+eps). dst may be x.
func RMSNorm(dst, x, gain []float32, eps float32) {
	n := len(x)
	if n == 0 {
		return
	}
	mean := float64(dot(x, x)) / float64(n)
	normScale(dst[:n], x, gain[:n], float32(1/math.Sqrt(mean+float64(eps))))
}

// normScale sets dst to x·f·gain.
func normScale(dst, x, gain []float32, f float32) {
	n := whole(len(dst))
	switch {
	case n == 0:
	case level >= AVX512:
		normScaleAVX512(&dst[0], &x[0], &gain[0], n, f)
	default:
		normScaleAVX2(&dst[0], &x[0], &gain[0], n, f)
	}
	normScaleGo(dst[n:], x[n:], gain[n:], f)
}

// Rope rotates the pairs (x[i], x[i+n/2]) of a head of n elements by angles
// whose cosines and sines are cos[:n/2] and sin[:n/2] (rotate_half).
func Rope(x, cos, sin []float32) {
	h := len(x) / 2
	a, b, cos, sin := x[:h], x[h:2*h], cos[:h], sin[:h]
	n := whole(h)
	switch {
	case n == 0:
	case level >= AVX512:
		ropeAVX512(&a[0], &b[0], &cos[0], &sin[0], n)
	default:
		ropeAVX2(&a[0], &b[0], &cos[0], &sin[0], n)
	}
	ropeGo(a[n:], b[n:], cos[n:], sin[n:])
}

func axpyGo(alpha float32, x, y []float32) {
	for i, v := range x {
		y[i] += float32(alpha * v)
	}
}

func dotGo(a, b []float32) float32 {
	var s [8]float32
	for len(a) >= 8 && len(b) >= 8 {
		s[0] += float32(a[0] * b[0])
		s[1] += float32(a[1] * b[1])
		s[2] += float32(a[2] * b[2])
		s[3] += float32(a[3] * b[3])
		s[4] += float32(a[4] * b[4])
		s[5] += float32(a[5] * b[5])
		s[6] += float32(a[6] * b[6])
		s[7] += float32(a[7] * b[7])
		a, b = a[8:], b[8:]
	}
	for i, v := range a {
		s[i] += float32(v * b[i])
	}
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

const log2e = float32(math.Log2E)

// expGo returns e^x to about 1e-7 relative; below -87 it is 0.
func expGo(x float32) float32 {
	if !(x > -87) {
		if x != x {
			return x
		}
		return 0
	}
	if x > 88 {
		x = 88
	}
	n := roundEven(float32(x * log2e))
	// x - n·ln 2 in two steps, then 2^(that/ln 2).
	const ln2Hi, ln2Lo = float32(0.693359375), float32(-2.12194440e-4)
	r := float32(x-float32(n*ln2Hi)) - float32(n*ln2Lo)
	f := float32(r * log2e)
	p := exp2Poly[6]
	for i := 5; i >= 0; i-- {
		p = float32(p*f) + exp2Poly[i]
	}
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
}

// expShiftGo sets x to exp(scale·(x-hi)) and returns the sum.
func expShiftGo(x []float32, scale, hi float32) float32 {
	var s [8]float32
	for i, v := range x {
		e := expGo(float32(scale * (v - hi)))
		x[i] = e
		s[i&7] += e
	}
	return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

func sumExpGo(x []float32, hi float32) float64 {
	var sum float64
	for _, v := range x {
		sum += float64(expGo(v - hi))
	}
	return sum
}

func scaleByGo(x []float32, f float32) {
	for i := range x {
		x[i] *= f
	}
}

func siluMulGo(dst, gate, up []float32) {
	for i, g := range gate {
		dst[i] = g / (1 + expGo(-g)) * up[i]
	}
}

func normScaleGo(dst, x, gain []float32, f float32) {
	for i, v := range x {
		dst[i] = float32(v*f) * gain[i]
	}
}

func ropeGo(a, b, cos, sin []float32) {
	for i, x := range a {
		y := b[i]
		a[i] = float32(x*cos[i]) - float32(y*sin[i])
		b[i] = float32(y*cos[i]) + float32(x*sin[i])
	}
}
