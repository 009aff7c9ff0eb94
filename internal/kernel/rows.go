package kernel

import "math"

// Row operations of a transformer. Between levels they differ by rounding.

// Axpy adds alpha*x to y, fused where the level has it.
func Axpy(alpha float32, x, y []float32) { axpy(alpha, x, y[:len(x)]) }

// Dot returns Σ a·b.
func Dot(a, b []float32) float32 { return dot(a, b[:len(a)]) }

// Softmax sets x to exp(scale·x) / Σ exp(scale·x), with the maximum taken
// out first. scale is positive.
func Softmax(x []float32, scale float32) {
	if len(x) == 0 {
		return
	}
	_, hi := MinMax(x)
	scaleBy(x, 1/expShift(x, scale, hi))
}

// ExpShift sets x to exp(scale·(x-hi)) and returns the sum; hi is at least the
// largest element and scale is positive. It errs by a few units in the last
// place; what should be less than exp(-87) becomes 0.
func ExpShift(x []float32, scale, hi float32) float32 { return expShift(x, scale, hi) }

// Scale multiplies x by f.
func Scale(x []float32, f float32) { scaleBy(x, f) }

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

// SiLUMul sets dst to gate/(1+exp(-gate))·up.
func SiLUMul(dst, gate, up []float32) {
	n := len(dst)
	siluMul(dst, gate[:n], up[:n])
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

// Rope rotates the pairs (x[i], x[i+n/2]) of a head of n elements by angles
// whose cosines and sines are cos[:n/2] and sin[:n/2] (rotate_half).
func Rope(x, cos, sin []float32) {
	h := len(x) / 2
	rope(x[:h], x[h:2*h], cos[:h], sin[:h])
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
