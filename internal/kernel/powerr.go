package kernel

import "math"

// The clip search of GPTQ's mse option minimizes Σ|ŵ-w|^2.4 over a group.
// pow24 computes e^2.4 = 2^(2.4·log2 e) with polynomials that every level
// evaluates in the same order without fused operations, so that all choose
// the same clip.
//
// With e = m·2^k, √½ ≤ m < √2, the exponent 2.4k = 12k/5 is split into an
// integer and a rest of at most ½ without rounding error to speak of, and
// only the rest goes through the polynomial of 2^x. The relative error is
// below 1e-6.
const (
	powMin = 0x1p-50 // below it, and at NaN, the power counts as 0
	powMax = 0x1p50  // above it, the power stays where it is
)

// log2Poly is log2(1+f)/f on [√½-1, √2-1], relative error 3e-8.
var log2Poly = [9]float32{
	1.4426950216293335, -0.7213473320007324, 0.48091062903404236,
	-0.3607036769390106, 0.28791624307632446, -0.2389448583126068,
	0.2157156616449356, -0.207269549369812, 0.12583662569522858,
}

// exp2Poly is 2^x on [-½, ½], relative error 2e-9.
var exp2Poly = [7]float32{
	1, 0.6931471824645996, 0.24022646248340607, 0.05550328642129898,
	0.009618489071726799, 0.0013399930903688073, 0.00015345810970757157,
}

// PowErr returns Σ |scale·(u-zero) - w|^2.4 over a group whose codes u are
// those of QuantRow: 16 sums in float32, element i in sum i%16, added as a
// tree.
func PowErr(w []float32, scale, zero, maxq float32) float64 {
	var s [16]float32
	n := 0
	if level >= AVX2 {
		n = len(w) &^ 15
	}
	switch {
	case n == 0:
	case level >= AVX512:
		powErrAVX512(&s[0], &w[0], n, scale, zero, maxq)
	default:
		powErrAVX2(&s[0], &w[0], n, scale, zero, maxq)
	}
	powErrTerms(&s, w[n:], scale, zero, maxq)
	return float64(sumTree(&s))
}

func powErrTerms(s *[16]float32, w []float32, scale, zero, maxq float32) {
	for i, v := range w {
		u := level32(v, scale, zero, maxq)
		s[i&15] += pow24(float32(scale*(u-zero)) - v)
	}
}

func sumTree(s *[16]float32) float32 {
	a, b, c, d := s[0]+s[8], s[1]+s[9], s[2]+s[10], s[3]+s[11]
	e, f, g, h := s[4]+s[12], s[5]+s[13], s[6]+s[14], s[7]+s[15]
	a, b, c, d = a+e, b+f, c+g, d+h
	return (a + c) + (b + d)
}

// pow24 returns |d|^2.4.
func pow24(d float32) float32 {
	const (
		sqrtHalf = 0x3f3504f3 // bits of √½
		fifth    = float32(0.2)
		power    = float32(2.4)
	)
	e := math.Float32frombits(math.Float32bits(d) &^ (1 << 31))
	if !(e > powMin) {
		return 0
	}
	if !(e < powMax) {
		e = powMax
	}
	bits := int32(math.Float32bits(e))
	k := (bits - sqrtHalf) >> 23
	f := math.Float32frombits(uint32(bits-k<<23)) - 1
	p := evenOdd(log2Poly[:], f)
	k12 := float32(12 * float32(k))
	n := roundEven(float32(k12 * fifth))
	x := float32(float32(k12-float32(5*n))*fifth) + float32(power*float32(p*f))
	r := roundEven(x)
	x -= r
	p = evenOdd(exp2Poly[:], x)
	return p * math.Float32frombits(uint32(int32(n+r)+127)<<23)
}

// evenOdd evaluates a polynomial of even degree, its even and its odd part
// each by Horner's rule: half the latency.
func evenOdd(c []float32, x float32) float32 {
	n := len(c) - 1
	sq := float32(x * x)
	even, odd := c[n], c[n-1]
	for i := n - 2; i > 0; i -= 2 {
		even = float32(even*sq) + c[i]
		odd = float32(odd*sq) + c[i-1]
	}
	even = float32(even*sq) + c[0]
	return even + float32(odd*x)
}
