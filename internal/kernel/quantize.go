package kernel

import "math"

// Codes are u = clamp(round(w/scale) + zero, 0, maxq), rounded to nearest,
// ties to even, with a true division; NaN becomes code 0. A code stands for
// scale*(u-zero). maxq is at most 255.

// QuantRow sets q to the codes of w on one grid.
func QuantRow(q []uint8, w []float32, scale, zero, maxq float32) {
	q = q[:len(w)]
	n := whole(len(w))
	switch {
	case n == 0:
	case level >= AVX512:
		quantRowAVX512(&q[0], &w[0], n, scale, zero, maxq)
	default:
		quantRowAVX2(&q[0], &w[0], n, scale, zero, maxq)
	}
	quantRowGo(q[n:], w[n:], scale, zero, maxq)
}

// QuantCols sets q to the codes of t, each on its own grid, and deq to what
// they stand for.
func QuantCols(q []uint8, deq, t, scale, zero []float32, maxq float32) {
	q, deq, scale, zero = q[:len(t)], deq[:len(t)], scale[:len(t)], zero[:len(t)]
	n := whole(len(t))
	switch {
	case n == 0:
	case level >= AVX512:
		quantColsAVX512(&q[0], &deq[0], &t[0], &scale[0], &zero[0], n, maxq)
	default:
		quantColsAVX2(&q[0], &deq[0], &t[0], &scale[0], &zero[0], n, maxq)
	}
	quantColsGo(q[n:], deq[n:], t[n:], scale[n:], zero[n:], maxq)
}

// Dequant sets dst to what the codes q stand for on one grid.
func Dequant(dst []float32, q []uint8, scale, zero float32) {
	dst = dst[:len(q)]
	n := whole(len(q))
	switch {
	case n == 0:
	case level >= AVX512:
		dequantAVX512(&dst[0], &q[0], n, scale, zero)
	default:
		dequantAVX2(&dst[0], &q[0], n, scale, zero)
	}
	dequantGo(dst[n:], q[n:], scale, zero)
}

// roundEven rounds to the nearest integer, ties to even.
func roundEven(x float32) float32 {
	const magic = 3 << 22 // adding it leaves no room for a fraction
	if x > -1<<22 && x < 1<<22 {
		return float32(x+magic) - magic
	}
	return float32(math.RoundToEven(float64(x)))
}

// level32 is the code of w as a float.
func level32(w, scale, zero, maxq float32) float32 {
	return clampCode(roundEven(w/scale)+zero, maxq)
}

// clampCode returns u between 0 and maxq. The comparisons are those of MAXPS
// and MINPS: they send NaN to 0.
func clampCode(u, maxq float32) float32 {
	if !(u > 0) {
		u = 0
	}
	if !(u < maxq) {
		u = maxq
	}
	return u
}

func quantRowGo(q []uint8, w []float32, scale, zero, maxq float32) {
	for i, v := range w {
		q[i] = uint8(level32(v, scale, zero, maxq))
	}
}

func quantColsGo(q []uint8, deq, t, scale, zero []float32, maxq float32) {
	for i, v := range t {
		u := level32(v, scale[i], zero[i], maxq)
		q[i] = uint8(u)
		deq[i] = scale[i] * (u - zero[i])
	}
}

func dequantGo(dst []float32, q []uint8, scale, zero float32) {
	for i, u := range q {
		dst[i] = scale * (float32(u) - zero)
	}
}
