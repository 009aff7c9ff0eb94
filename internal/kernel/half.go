package kernel

import (
	"math"

	"github.com/x448/float16"
)

// F16ToF32 widens IEEE half floats. A signalling NaN becomes quiet.
func F16ToF32(dst []float32, src []uint16) {
	dst = dst[:len(src)]
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

// F32ToF16 rounds to nearest, ties to even. What is too large becomes an
// infinity; NaN stays NaN.
func F32ToF16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
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

// BF16ToF32 widens bfloat16.
func BF16ToF32(dst []float32, src []uint16) {
	dst = dst[:len(src)]
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

// F32ToBF16 rounds to nearest, ties to even; NaN stays NaN.
func F32ToBF16(dst []uint16, src []float32) {
	dst = dst[:len(src)]
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

func f16ToF32Go(dst []float32, src []uint16) {
	for i, v := range src {
		dst[i] = float16.Frombits(v).Float32()
	}
}

func f32ToF16Go(dst []uint16, src []float32) {
	for i, v := range src {
		dst[i] = float16.Fromfloat32(v).Bits()
	}
}

func bf16ToF32Go(dst []float32, src []uint16) {
	for i, v := range src {
		dst[i] = math.Float32frombits(uint32(v) << 16)
	}
}

func f32ToBF16Go(dst []uint16, src []float32) {
	for i, v := range src {
		u := math.Float32bits(v)
		if v != v {
			dst[i] = uint16(u>>16) | 0x40
			continue
		}
		dst[i] = uint16((u + 0x7fff + u>>16&1) >> 16)
	}
}
