package kernel

import "math"

// Codes are u = clamp(round(w/scale) + zero, 0, maxq), rounded to nearest,
// ties to even, with a true division; NaN becomes code 0. A code stands for
// scale*(u-zero). maxq is at most 255.

// QuantRow sets q to the codes of w on one grid.
func QuantRow(q []uint8, w []float32, scale, zero, maxq float32) {
	quantRow(q[:len(w)], w, scale, zero, maxq)
}

// QuantCols sets q to the codes of t, each on its own grid, deq to what they
// stand for and err to t - deq. deq and err may be nil.
func QuantCols(q []uint8, deq, err []float32, t, scale, zero []float32, maxq float32) {
	n := len(t)
	q, scale, zero = q[:n], scale[:n], zero[:n]
	if deq != nil {
		deq = deq[:n]
	}
	if err != nil {
		err = err[:n]
	}
	quantCols(q, deq, err, t, scale, zero, maxq)
}

// Dequant sets dst to what the codes q stand for on one grid.
func Dequant(dst []float32, q []uint8, scale, zero float32) {
	dequant(dst[:len(q)], q, scale, zero)
}

// DequantCols sets dst to what the codes q stand for, each on its own grid.
func DequantCols(dst []float32, q []uint8, scale, zero []float32) {
	n := len(q)
	dequantCols(dst[:n], q, scale[:n], zero[:n])
}

// roundEven rounds to the nearest integer, ties to even.
func roundEven(x float32) float32 {
	const magic = 3 << 22 // adding it leaves no room for a fraction
	if x > -1<<22 && x < 1<<22 {
		return float32(x+magic) - magic
	}
	return float32(math.RoundToEven(float64(x)))
}

// level32 is the code of w as a float. The comparisons are those of MAXPS
// and MINPS: they send NaN to 0.
func level32(w, scale, zero, maxq float32) float32 {
	u := roundEven(w/scale) + zero
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

func quantColsGo(q []uint8, deq, err []float32, t, scale, zero []float32, maxq float32) {
	for i, v := range t {
		u := level32(v, scale[i], zero[i], maxq)
		q[i] = uint8(u)
		d := float32(scale[i] * (u - zero[i]))
		if deq != nil {
			deq[i] = d
		}
		if err != nil {
			err[i] = v - d
		}
	}
}

func dequantGo(dst []float32, q []uint8, scale, zero float32) {
	for i, u := range q {
		dst[i] = scale * (float32(u) - zero)
	}
}

func dequantColsGo(dst []float32, q []uint8, scale, zero []float32) {
	for i, u := range q {
		dst[i] = scale[i] * (float32(u) - zero[i])
	}
}
