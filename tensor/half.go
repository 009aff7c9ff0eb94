package tensor

import "github.com/golowbit/lowbit/internal/kernel"

// F16ToF32 widens IEEE half floats. dst and src have the same length.
func F16ToF32(dst []float32, src []uint16) { kernel.F16ToF32(dst, src) }

// F32ToF16 rounds to IEEE half floats, to nearest, ties to even. What is too
// large becomes an infinity, as the format has it: callers that store must check.
func F32ToF16(dst []uint16, src []float32) { kernel.F32ToF16(dst, src) }

// BF16ToF32 widens bfloat16.
func BF16ToF32(dst []float32, src []uint16) { kernel.BF16ToF32(dst, src) }

// F32ToBF16 rounds to bfloat16, to nearest, ties to even. NaN stays NaN.
func F32ToBF16(dst []uint16, src []float32) { kernel.F32ToBF16(dst, src) }

// RoundF16 returns v rounded to the nearest half float, widened again.
func RoundF16(v float32) float32 {
	var h [1]uint16
	var f [1]float32
	f[0] = v
	kernel.F32ToF16(h[:], f[:])
	kernel.F16ToF32(f[:], h[:])
	return f[0]
}

// RoundBF16 returns v rounded to the nearest bfloat16, ties to even.
func RoundBF16(v float32) float32 {
	var h [1]uint16
	var f [1]float32
	f[0] = v
	kernel.F32ToBF16(h[:], f[:])
	kernel.BF16ToF32(f[:], h[:])
	return f[0]
}
