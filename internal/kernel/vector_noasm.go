//go:build !amd64 || purego

package kernel

func minMax(x []float32) (lo, hi float32)    { return minMaxGo(x) }
func minMaxAcc(lo, hi, x []float32)          { minMaxAccGo(lo, hi, x) }
func allFinite(x []float32) bool             { return allFiniteGo(x) }
func axpy(alpha float32, x, y []float32)     { axpyGo(alpha, x, y) }
func dot(a, b []float32) float32             { return dotGo(a, b) }
func scaleBy(x []float32, f float32)         { scaleByGo(x, f) }
func siluMul(dst, gate, up []float32)        { siluMulGo(dst, gate, up) }
func rope(a, b, cos, sin []float32)          { ropeGo(a, b, cos, sin) }
func sumExp(x []float32, hi float32) float64 { return sumExpGo(x, hi) }

func expShift(x []float32, scale, hi float32) float32 { return expShiftGo(x, scale, hi) }

func normScale(dst, x, gain []float32, f float32) { normScaleGo(dst, x, gain, f) }

func quantRow(q []uint8, w []float32, scale, zero, maxq float32) {
	quantRowGo(q, w, scale, zero, maxq)
}

func quantCols(q []uint8, deq, err []float32, t, scale, zero []float32, maxq float32) {
	quantColsGo(q, deq, err, t, scale, zero, maxq)
}

func dequant(dst []float32, q []uint8, scale, zero float32) { dequantGo(dst, q, scale, zero) }

func dequantCols(dst []float32, q []uint8, scale, zero []float32) {
	dequantColsGo(dst, q, scale, zero)
}

func powErr(w []float32, scale, zero, maxq float32) float32 {
	return powErrGo(w, scale, zero, maxq)
}

func powErrCols(acc, w, scale, zero []float32, maxq float32) {
	powErrColsGo(acc, w, scale, zero, maxq)
}

func f16ToF32(dst []float32, src []uint16)  { f16ToF32Go(dst, src) }
func f32ToF16(dst []uint16, src []float32)  { f32ToF16Go(dst, src) }
func bf16ToF32(dst []float32, src []uint16) { bf16ToF32Go(dst, src) }
func f32ToBF16(dst []uint16, src []float32) { f32ToBF16Go(dst, src) }

func rtn4Fused(bf16 bool, codes []uint32, scales []float32, zeros []uint8, src []uint16, group int) (done int, ok bool) {
	return 0, true
}

func packEights(dst []uint32, codes []uint8, bits int) (n int)   { return 0 }
func unpackEights(dst []uint8, words []uint32, bits int) (n int) { return 0 }

func transposeBlocks(dst []float32, ldd int, src []float32, lds, rows, cols int) (done int) {
	return 0
}
