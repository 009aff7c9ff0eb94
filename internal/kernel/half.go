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

// E4M3ToF32 widens floats of 8 bits with 3 bits of fraction (OCP 8-bit Floating Point
// 1.0), which have no infinities.
func E4M3ToF32(dst []float32, src []uint8) {
	dst = dst[:len(src)]
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		e4m3ToF32AVX512(&dst[0], &src[0], n)
	default:
		e4m3ToF32AVX2(&dst[0], &src[0], n)
	}
	e4m3ToF32Go(dst[n:], src[n:])
}

// E5M2ToF32 widens floats of 8 bits with 2 bits of fraction: half floats cut short.
func E5M2ToF32(dst []float32, src []uint8) {
	dst = dst[:len(src)]
	n := whole(len(src))
	switch {
	case n == 0:
	case level >= AVX512:
		e5m2ToF32AVX512(&dst[0], &src[0], n)
	default:
		e5m2ToF32AVX2(&dst[0], &src[0], n)
	}
	e5m2ToF32Go(dst[n:], src[n:])
}

// e4m3ToF32Go takes them for half floats with a fraction of 3 bits, whose exponents are
// biased by 8 more.
func e4m3ToF32Go(dst []float32, src []uint8) {
	for i, b := range src {
		h := uint16(b&0x80)<<8 | uint16(b&0x7f)<<7
		if b&0x7f == 0x7f {
			h |= 0x7e00 // not a number
		}
		dst[i] = float16.Frombits(h).Float32() * 256
	}
}

func e5m2ToF32Go(dst []float32, src []uint8) {
	for i, b := range src {
		dst[i] = float16.Frombits(uint16(b) << 8).Float32()
	}
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
