//go:build !purego

package kernel

import "math"

// Vector code takes whole vectors; the rest of a row goes to the twin. whole
// returns how many of n elements make whole vectors at this level.
func whole(n int) int {
	switch {
	case level >= AVX512:
		return n &^ 15
	case level == AVX2:
		return n &^ 7
	}
	return 0
}

func minMax(x []float32) (lo, hi float32) {
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

func minMaxAcc(lo, hi, x []float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case level >= AVX512:
		minMaxAccAVX512(&lo[0], &hi[0], &x[0], n)
	default:
		minMaxAccAVX2(&lo[0], &hi[0], &x[0], n)
	}
	minMaxAccGo(lo[n:], hi[n:], x[n:])
}

func allFinite(x []float32) bool {
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

func quantRow(q []uint8, w []float32, scale, zero, maxq float32) {
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

func quantCols(q []uint8, deq, err []float32, t, scale, zero []float32, maxq float32) {
	n := whole(len(t))
	var d, e *float32
	if n > 0 && deq != nil {
		d = &deq[0]
	}
	if n > 0 && err != nil {
		e = &err[0]
	}
	switch {
	case n == 0:
	case level >= AVX512:
		quantColsAVX512(&q[0], d, e, &t[0], &scale[0], &zero[0], n, maxq)
	default:
		quantColsAVX2(&q[0], d, e, &t[0], &scale[0], &zero[0], n, maxq)
	}
	if deq != nil {
		deq = deq[n:]
	}
	if err != nil {
		err = err[n:]
	}
	quantColsGo(q[n:], deq, err, t[n:], scale[n:], zero[n:], maxq)
}

func dequant(dst []float32, q []uint8, scale, zero float32) {
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

func dequantCols(dst []float32, q []uint8, scale, zero []float32) {
	n := whole(len(q))
	switch {
	case n == 0:
	case level >= AVX512:
		dequantColsAVX512(&dst[0], &q[0], &scale[0], &zero[0], n)
	default:
		dequantColsAVX2(&dst[0], &q[0], &scale[0], &zero[0], n)
	}
	dequantColsGo(dst[n:], q[n:], scale[n:], zero[n:])
}

func powErr(w []float32, scale, zero, maxq float32) float32 {
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
	return sumTree(&s)
}

func powErrCols(acc, w, scale, zero []float32, maxq float32) {
	n := whole(len(w))
	switch {
	case n == 0:
	case level >= AVX512:
		powErrColsAVX512(&acc[0], &w[0], &scale[0], &zero[0], n, maxq)
	default:
		powErrColsAVX2(&acc[0], &w[0], &scale[0], &zero[0], n, maxq)
	}
	powErrColsGo(acc[n:], w[n:], scale[n:], zero[n:], maxq)
}

func axpy(alpha float32, x, y []float32) {
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

func scaleBy(x []float32, f float32) {
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

func expShift(x []float32, scale, hi float32) float32 {
	n := whole(len(x))
	switch {
	case n == 0:
		return expShiftGo(x, scale, hi)
	case level >= AVX512:
		return expShiftAVX512(&x[0], n, scale, hi) + expShiftGo(x[n:], scale, hi)
	}
	return expShiftAVX2(&x[0], n, scale, hi) + expShiftGo(x[n:], scale, hi)
}

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

func siluMul(dst, gate, up []float32) {
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

func rope(a, b, cos, sin []float32) {
	n := whole(len(a))
	switch {
	case n == 0:
	case level >= AVX512:
		ropeAVX512(&a[0], &b[0], &cos[0], &sin[0], n)
	default:
		ropeAVX2(&a[0], &b[0], &cos[0], &sin[0], n)
	}
	ropeGo(a[n:], b[n:], cos[n:], sin[n:])
}

func f16ToF32(dst []float32, src []uint16) {
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		f16ToF32AVX512(&dst[0], &src[0], n)
	default:
		f16ToF32AVX2(&dst[0], &src[0], n)
	}
	f16ToF32Go(dst[n:], src[n:])
}

func f32ToF16(dst []uint16, src []float32) {
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		f32ToF16AVX512(&dst[0], &src[0], n)
	default:
		f32ToF16AVX2(&dst[0], &src[0], n)
	}
	f32ToF16Go(dst[n:], src[n:])
}

func bf16ToF32(dst []float32, src []uint16) {
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		bf16ToF32AVX512(&dst[0], &src[0], n)
	default:
		bf16ToF32AVX2(&dst[0], &src[0], n)
	}
	bf16ToF32Go(dst[n:], src[n:])
}

func f32ToBF16(dst []uint16, src []float32) {
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		f32ToBF16AVX512(&dst[0], &src[0], n)
	default:
		f32ToBF16AVX2(&dst[0], &src[0], n)
	}
	f32ToBF16Go(dst[n:], src[n:])
}

// rtn4Fused does the whole groups of a line, if they are made of chunks of 32.
func rtn4Fused(bf16 bool, codes []uint32, scales []float32, zeros []uint8, src []uint16, group int) (done int, ok bool) {
	const chunk = 32
	n := len(src) / group
	if level < AVX512 || group%chunk != 0 || n == 0 {
		return 0, true
	}
	if bf16 {
		ok = rtn4BF16AVX512(&codes[0], &scales[0], &zeros[0], &src[0], n, group/chunk)
	} else {
		ok = rtn4F16AVX512(&codes[0], &scales[0], &zeros[0], &src[0], n, group/chunk)
	}
	return n, ok
}

// packEights packs as many codes as it can, a multiple of 32, and returns
// their number.
func packEights(dst []uint32, codes []uint8, bits int) int {
	n := eights(len(codes), len(dst), bits)
	if n > 0 {
		packBitsBMI2(&dst[0], &codes[0], n, bits, (1<<bits-1)*0x0101010101010101)
	}
	return 8 * n
}

// unpackEights unpacks as many codes as it can, a multiple of 32.
func unpackEights(dst []uint8, words []uint32, bits int) int {
	n := eights(len(dst), len(words), bits)
	if n > 0 {
		unpackBitsBMI2(&dst[0], &words[0], n, bits, (1<<bits-1)*0x0101010101010101)
	}
	return 8 * n
}

// eights is how many times eight of n codes can be moved 8 bytes at a time
// without leaving the words, a multiple of 4.
func eights(n, words, bits int) int {
	if level < AVX2 || words < 2 {
		return 0
	}
	return min(n/8, (4*words-8)/bits+1) &^ 3
}

// transposeBlocks transposes the leading columns of 16 rows that make whole
// blocks and returns their number.
func transposeBlocks(dst []float32, ldd int, src []float32, lds, rows, cols int) (done int) {
	switch {
	case rows != 16 || level < AVX2:
	case level >= AVX512:
		if done = cols &^ 15; done > 0 {
			transpose16AVX512(&dst[0], ldd, &src[0], lds, done/16)
		}
	default:
		if done = cols &^ 7; done > 0 {
			transpose8AVX2(&dst[0], ldd, &src[0], lds, done/8)
			transpose8AVX2(&dst[8], ldd, &src[8*lds], lds, done/8)
		}
	}
	return done
}
