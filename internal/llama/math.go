package llama

import "math"

// rmsNorm writes w * x / sqrt(mean(x²) + eps) to dst.
func rmsNorm(dst, x, w []float32, eps float64) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(x))+eps))
	dst, w = dst[:len(x)], w[:len(x)]
	for i, v := range x {
		dst[i] = v * scale * w[i]
	}
}

// siluMul writes silu(gate)*up to gate, silu(v) = v / (1 + exp(-v)).
func siluMul(gate, up []float32) {
	up = up[:len(gate)]
	for i, v := range gate {
		gate[i] = v / (1 + exp(-v)) * up[i]
	}
}

// expSum replaces each element v of x by exp(v - shift), shift being at least
// the largest, and returns their sum.
func expSum(x []float32, shift float32) float32 {
	var s0, s1, s2, s3 float32
	i := 0
	for ; i+4 <= len(x); i += 4 {
		v := x[i : i+4 : i+4]
		v[0], v[1], v[2], v[3] = exp(v[0]-shift), exp(v[1]-shift), exp(v[2]-shift), exp(v[3]-shift)
		s0 += v[0]
		s1 += v[1]
		s2 += v[2]
		s3 += v[3]
	}
	for ; i < len(x); i++ {
		x[i] = exp(x[i] - shift)
		s0 += x[i]
	}
	return (s0 + s1) + (s2 + s3)
}

func maximum(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

// exp is e**x in float32, within 2 units in the last place; below -87 it is
// exactly 0, so that far negative scores cost nothing downstream.
func exp(x float32) float32 {
	const (
		log2e = 1.44269504088896341
		ln2hi = 0.693359375
		ln2lo = -2.12194440e-4
		magic = 3 << 22 // adding and subtracting it rounds to an integer
	)
	if !(x >= -87) {
		if x < -87 {
			return 0
		}
		return x // NaN
	}
	if x > 88.7 {
		return float32(math.Exp(float64(x)))
	}
	n := float32(x*log2e) + magic - magic
	r := x - float32(n*ln2hi)
	r -= float32(n * ln2lo)
	p := float32(1.9875691500e-4)
	p = float32(p*r) + 1.3981999507e-3
	p = float32(p*r) + 8.3334519073e-3
	p = float32(p*r) + 4.1665795894e-2
	p = float32(p*r) + 1.6666665459e-1
	p = float32(p*r) + 5.0000001201e-1
	p = float32(float32(p*r)*r) + r + 1
	return p * math.Float32frombits(uint32(int32(n)+127)<<23)
}

// logSumExp returns log(sum(exp(x))) in float64.
func logSumExp(x []float32) float64 {
	m := maximum(x)
	if math.IsInf(float64(m), 0) {
		return float64(m)
	}
	var sum float64
	for _, v := range x {
		sum += float64(exp(v - m))
	}
	return float64(m) + math.Log(sum)
}
