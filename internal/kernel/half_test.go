package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestHalfWiden(t *testing.T) {
	const n = 1<<16 + 5 // an odd length
	src := make([]uint16, n)
	for i := range src {
		src[i] = uint16(i)
	}
	got, want, back := make([]float32, n), make([]float32, n), make([]uint16, n)
	raw := func(x []float32) []uint32 {
		out := make([]uint32, len(x))
		for i, v := range x {
			out[i] = math.Float32bits(v)
		}
		return out
	}
	eachLevel(t, func(t *testing.T) {
		F16ToF32(got, src)
		f16ToF32Go(want, src)
		require.Equal(t, raw(want), raw(got))
		F32ToF16(back, got)
		for i, h := range src {
			if h&0x7c00 == 0x7c00 && h&0x3ff != 0 {
				h |= 0x200 // quiet
			}
			require.Equal(t, h, back[i])
		}
		BF16ToF32(got, src)
		bf16ToF32Go(want, src)
		require.Equal(t, raw(want), raw(got))
		F32ToBF16(back, got)
		for i, h := range src {
			if h&0x7f80 == 0x7f80 && h&0x7f != 0 {
				h |= 0x40
			}
			require.Equal(t, h, back[i])
		}
	})
}

// halfway draws floats near the ties of both half formats, besides any bits.
var halfway = rapid.Custom(func(t *rapid.T) uint32 {
	u := rapid.Uint32().Draw(t, "bits")
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0: // a tie of F16 or next to it
		return u&^0x1fff | 0x1000 + uint32(rapid.IntRange(-1, 1).Draw(t, "by"))
	case 1: // a tie of BF16 or next to it
		return u&^0xffff | 0x8000 + uint32(rapid.IntRange(-1, 1).Draw(t, "by"))
	case 2: // subnormal half floats
		return u&0x807fffff | uint32(rapid.IntRange(98, 115).Draw(t, "exponent"))<<23
	}
	return u
})

func TestHalfNarrow(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			u := rapid.SliceOfN(halfway, 0, 50).Draw(t, "x")
			x := make([]float32, len(u))
			for i, v := range u {
				x[i] = math.Float32frombits(v)
			}
			got, want := make([]uint16, len(x)+1), make([]uint16, len(x)+1)
			F32ToF16(got, x)
			f32ToF16Go(want, x)
			require.Equal(t, want, got)
			F32ToBF16(got, x)
			f32ToBF16Go(want, x)
			require.Equal(t, want, got)
		})
	})
}

func BenchmarkHalf(b *testing.B) {
	const n = 8192
	f, h := randoms(n, 1), make([]uint16, n)
	run := func(name string, op func()) {
		benchLevels(b, name, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				op()
			}
		})
	}
	run("F32ToF16", func() { F32ToF16(h, f) })
	run("F16ToF32", func() { F16ToF32(f, h) })
	run("F32ToBF16", func() { F32ToBF16(h, f) })
	run("BF16ToF32", func() { BF16ToF32(f, h) })
}

// Every byte is its sign, exponent and fraction, at every place of a row.
func TestFloats8(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, c := range []struct {
			widen                  func([]float32, []uint8)
			fraction, bias, finite int
		}{{E4M3ToF32, 3, 7, 127}, {E5M2ToF32, 2, 15, 124}} {
			src := make([]uint8, 256+19)
			for i := range src {
				src[i] = uint8(i * 7)
			}
			dst := make([]float32, len(src))
			c.widen(dst, src)
			for i, b := range src {
				e, f := int(b&127)>>c.fraction, int(b)&(1<<c.fraction-1)
				if e > 0 {
					f, e = f|1<<c.fraction, e-1
				}
				want := math.Copysign(math.Ldexp(float64(f), e+1-c.bias-c.fraction), 0.5-float64(b>>7))
				switch low := int(b & 127); {
				case low >= c.finite && (c.fraction == 3 || low > c.finite):
					require.True(t, dst[i] != dst[i], "%#x", b)
					continue
				case low == c.finite:
					want = math.Inf(int(want))
				}
				require.Equal(t, math.Float32bits(float32(want)), math.Float32bits(dst[i]), "%#x", b)
			}
		}
	})
}
