package kernel

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// halfWeights draws lines of half floats: ordinary weights, one sign, zeros,
// multiples that make ties, any finite bits.
func halfWeights(bf16 bool) *rapid.Generator[[]uint16] {
	return rapid.Custom(func(t *rapid.T) []uint16 {
		n := rapid.OneOf(rapid.IntRange(0, 300), rapid.SampledFrom([]int{256, 512, 1024})).Draw(t, "n")
		kind := rapid.IntRange(0, 5).Draw(t, "kind")
		scale := rapid.SampledFrom([]float32{1, 0.02, 1e-7, 1e-12, 1000, 0x1p-24}).Draw(t, "scale")
		x := randoms(n, rapid.Uint64().Draw(t, "seed"))
		for i := range x {
			switch kind {
			case 0:
				x[i] *= scale
			case 1:
				x[i] = float32(math.Abs(float64(x[i]))) * -scale
			case 2:
				x[i] = float32(math.Copysign(0, float64(x[i])))
			case 3: // the range is 15 steps, every weight half a step
				x[i] = float32(min(max(math.Round(4*float64(x[i])), -14), 16)) / 2 * scale
			case 4:
				x[i] = float32(1 + math.Abs(float64(x[i]))/100)
			}
		}
		h := make([]uint16, n)
		if bf16 {
			F32ToBF16(h, x)
		} else {
			F32ToF16(h, x)
		}
		if kind == 5 {
			inf := uint16(0x7c00)
			if bf16 {
				inf = 0x4770 // up to 61440, so that scales fit
			}
			for i := range h {
				h[i] = rapid.Uint16().Draw(t, "bits")
				if h[i]&0x7fff >= inf {
					h[i] = 0
				}
			}
		}
		return h
	})
}

func TestRTN4(t *testing.T) {
	t.Run("f16", func(t *testing.T) { testRTN4(t, rtnF16, halfWeights(false), 0x7c00, 0xfc00, 0x7fff, 0xffff, 0x7e00) })
	t.Run("bf16", func(t *testing.T) {
		// The scale of 2^23 is no half float.
		testRTN4(t, rtnBF16, halfWeights(true), 0x7f80, 0xff80, 0x7fff, 0xffff, 0x7fc0, 0x4b00)
	})
	t.Run("f32", func(t *testing.T) {
		inf, nan := float32(math.Inf(1)), float32(math.NaN())
		testRTN4(t, rtnF32, floatWeights(), inf, -inf, nan, 0x1p23, -math.MaxFloat32)
	})
}

func testRTN4[T uint16 | float32](t *testing.T, k *rtnKind[T], weights *rapid.Generator[[]T], bad ...T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			src := weights.Draw(t, "src")
			group := rapid.SampledFrom([]int{32, 64, 128, 256, 24, 40}).Draw(t, "group")
			n := (len(src) + group - 1) / group
			codes, want := make([]uint32, (len(src)+7)/8+1), make([]uint32, (len(src)+7)/8+1)
			scales, wantScales := make([]float32, n+1), make([]float32, n+1)
			zeros, wantZeros := make([]uint8, n+1), make([]uint8, n+1)
			require.True(t, rtn4(k, codes, scales, zeros, src, group))
			atLevel(Generic, func() {
				k.plain(want, wantScales[:n], wantZeros[:n], src, group)
			})
			require.Equal(t, wantScales, scales)
			require.Equal(t, wantZeros, zeros)
			require.Equal(t, want, codes)
		})
		for _, v := range bad {
			for at := range 64 {
				src := make([]T, 256)
				src[128+at] = v
				require.False(t, rtn4(k, make([]uint32, 32), make([]float32, 4), make([]uint8, 4), src, 64), "%v", v)
			}
		}
	})
}

// floatWeights are halfWeights as floats, and what no half float is beside them.
func floatWeights() *rapid.Generator[[]float32] {
	return rapid.Custom(func(t *rapid.T) []float32 {
		h := halfWeights(false).Draw(t, "halves")
		x := make([]float32, len(h))
		F16ToF32(x, h)
		if rapid.Bool().Draw(t, "fine") {
			r := randoms(len(x), rapid.Uint64().Draw(t, "fine seed"))
			for i := range x { // near what they were, on either side of a tie
				x[i] *= 1 + r[i]*0x1p-22
			}
		}
		return x
	})
}

// Every pair of a half-float scale and a weight that is a tie, or the float beside one.
func TestRTN4Ties(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		const group = 32
		for m := uint16(0x3400); m < 0x3800; m++ { // every significand of a scale
			var s [1]float32
			F16ToF32(s[:], []uint16{m})
			x, src := make([]float32, group), make([]uint16, group)
			x[0] = 15 * s[0]
			for i := 1; i < group; i++ {
				x[i] = s[0] * float32(i-1) / 2
			}
			F32ToF16(src, x)
			sameCodes(t, rtnF16, src)
			F32ToBF16(src, x)
			sameCodes(t, rtnBF16, src)
			for _, beside := range []float32{0, -math.MaxFloat32, math.MaxFloat32} {
				for i := 1; i < group && beside != 0; i++ {
					x[i] = math.Nextafter32(s[0]*float32(i-1)/2, beside)
				}
				sameCodes(t, rtnF32, x)
			}
		}
	})
}

// sameCodes compares the codes of one group with the twin's.
func sameCodes[T uint16 | float32](t *testing.T, k *rtnKind[T], src []T) {
	codes, want := make([]uint32, 4), make([]uint32, 4)
	scales, zeros := make([]float32, 1), make([]uint8, 1)
	require.True(t, rtn4(k, codes, scales, zeros, src, len(src)))
	atLevel(Generic, func() { k.plain(want, scales, zeros, src, len(src)) })
	require.Equal(t, want, codes)
}

func BenchmarkRTN4(b *testing.B) {
	for _, n := range []int{4096, 1 << 24} {
		x, src := randoms(n, 1), make([]uint16, n)
		F32ToBF16(src, x)
		codes, scales, zeros := make([]uint32, n/8), make([]float32, n/128), make([]uint8, n/128)
		benchLevels(b, fmt.Sprintf("bf16/n=%d", n), func(b *testing.B) {
			b.SetBytes(int64(2 * n))
			for b.Loop() {
				RTN4BF16(codes, scales, zeros, src, 128)
			}
			b.ReportMetric(4*float64(n)*float64(b.N)/b.Elapsed().Seconds()*1e-9, "float32-GB/s")
		})
		benchLevels(b, fmt.Sprintf("f32/n=%d", n), func(b *testing.B) {
			b.SetBytes(int64(4 * n))
			for b.Loop() {
				RTN4F32(codes, scales, zeros, x, 128)
			}
		})
	}
}
