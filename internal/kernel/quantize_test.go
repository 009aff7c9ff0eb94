package kernel

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// anyFloats draws floats of all kinds; NaN only if asked for.
func anyFloats(nan bool) *rapid.Generator[float32] {
	special := []float32{0, float32(math.Copysign(0, -1)), 0.5, -0.5, 1.5, 2.5, 1e-40, -1e-40, 1 << 22, 1<<22 + 0.5, -(1<<23 - 0.5), 1e30, -1e30, math.MaxFloat32, float32(math.Inf(1)), float32(math.Inf(-1))}
	if nan {
		special = append(special, float32(math.NaN()))
	}
	return rapid.OneOf(
		rapid.Float32Range(-1, 1),
		rapid.Map(rapid.IntRange(-40, 40), func(i int) float32 { return float32(i) / 2 }),
		rapid.SampledFrom(special),
		rapid.Map(rapid.Uint32(), func(u uint32) float32 {
			if v := math.Float32frombits(u); nan || v == v {
				return v
			}
			return 3
		}),
	)
}

func floats(t *rapid.T, name string, n int, nan bool) []float32 {
	return rapid.SliceOfN(anyFloats(nan), n, n).Draw(t, name)
}

func bitsOf(x []float32) []uint32 {
	out := make([]uint32, len(x))
	for i, v := range x {
		out[i] = math.Float32bits(v)
		if v != v {
			out[i] = 0x7fc00000 // which NaN does not matter
		}
	}
	return out
}

var sizes = rapid.OneOf(rapid.IntRange(0, 40), rapid.SampledFrom([]int{63, 64, 65, 128, 257}))

var grids = rapid.OneOf(rapid.Float32Range(1e-4, 2), rapid.SampledFrom([]float32{1, 0.5, 0.1, 1e-8, 1e30}))

func TestMinMaxTwin(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			x := floats(t, "x", n, rapid.Bool().Draw(t, "nan"))
			lo, hi := MinMax(x)
			wlo, whi := minMaxGo(x)
			require.Equal(t, bitsOf([]float32{wlo, whi}), bitsOf([]float32{lo, hi}))
			require.Equal(t, allFiniteGo(x), AllFinite(x))

			l, h := floats(t, "lo", n+1, false), floats(t, "hi", n+1, false)
			wl, wh := append([]float32(nil), l...), append([]float32(nil), h...)
			MinMaxAcc(l, h, x)
			minMaxAccGo(wl, wh, x)
			require.Equal(t, bitsOf(wl), bitsOf(l))
			require.Equal(t, bitsOf(wh), bitsOf(h))
		})
	})
}

func TestMinMax(t *testing.T) {
	lo, hi := MinMax([]float32{3, -2, 7})
	require.Equal(t, []float32{-2, 7}, []float32{lo, hi})
	lo, hi = MinMax(nil)
	require.True(t, math.IsInf(float64(lo), 1) && math.IsInf(float64(hi), -1))
	lo, hi = MinMax([]float32{1, float32(math.NaN()), 2})
	require.True(t, lo != lo && hi != hi)
	require.False(t, AllFinite([]float32{1, float32(math.Inf(-1))}))
	require.True(t, AllFinite([]float32{1, math.MaxFloat32}))
}

func TestQuantTwin(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			w := floats(t, "w", n, rapid.Bool().Draw(t, "nan"))
			maxq := float32(int(1)<<rapid.IntRange(1, 8).Draw(t, "bits") - 1)
			scale, zero := grids.Draw(t, "scale"), float32(rapid.IntRange(0, int(maxq)).Draw(t, "zero"))
			got, want := make([]uint8, n+1), make([]uint8, n+1)
			QuantRow(got, w, scale, zero, maxq)
			quantRowGo(want, w, scale, zero, maxq)
			require.Equal(t, want, got)

			d, dw := make([]float32, n+1), make([]float32, n+1)
			Dequant(d, got[:n], scale, zero)
			dequantGo(dw, want[:n], scale, zero)
			require.Equal(t, bitsOf(dw), bitsOf(d))

			scales := rapid.SliceOfN(grids, n, n).Draw(t, "scales")
			zeros := make([]float32, n)
			for i := range zeros {
				zeros[i] = float32(i % (int(maxq) + 1))
			}
			e, ew := make([]float32, n+1), make([]float32, n+1)
			QuantCols(got, d, e, w, scales, zeros, maxq)
			quantColsGo(want, dw, ew, w, scales, zeros, maxq)
			require.Equal(t, want, got)
			require.Equal(t, bitsOf(dw), bitsOf(d))
			require.Equal(t, bitsOf(ew), bitsOf(e))
			clear(e)
			QuantCols(got, nil, e, w, scales, zeros, maxq)
			require.Equal(t, bitsOf(ew), bitsOf(e))
			clear(d)
			QuantCols(got, d, nil, w, scales, zeros, maxq)
			require.Equal(t, bitsOf(dw), bitsOf(d))
			clear(got)
			QuantCols(got, nil, nil, w, scales, zeros, maxq)
			require.Equal(t, want, got)
			DequantCols(d, got[:n], scales, zeros)
			require.Equal(t, bitsOf(dw), bitsOf(d))
		})
	})
}

// The definition, element by element in float64.
func TestQuantRow(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			w := rapid.SliceOfN(rapid.Float32Range(-3, 3), n, n).Draw(t, "w")
			scale := rapid.Float32Range(0.01, 1).Draw(t, "scale")
			q := make([]uint8, n)
			QuantRow(q, w, scale, 7, 15)
			for i, v := range w {
				u := math.RoundToEven(float64(v/scale)) + 7
				require.Equal(t, uint8(min(max(u, 0), 15)), q[i])
			}
		})
		q := make([]uint8, 5)
		QuantRow(q, []float32{0.5, 1.5, 2.5, -0.5, float32(math.NaN())}, 1, 1, 3)
		require.Equal(t, []uint8{1, 3, 3, 1, 0}, q, "ties go to even")
	})
}

func TestBits(t *testing.T) { eachLevel(t, testBits) }

func testBits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(1, 8).Draw(t, "bits")
		codes := rapid.SliceOfN(rapid.Uint8Range(0, uint8(1<<bits-1)), 0, 300).Draw(t, "codes")
		n := len(codes)
		words := make([]uint32, (n*bits+31)/32+1)
		words[len(words)-1] = 0xdeadbeef
		PackBits(words, codes, bits)
		require.Equal(t, uint32(0xdeadbeef), words[len(words)-1], "writes past the end")
		// The stream as one big number.
		want := new(big.Int)
		for i := n - 1; i >= 0; i-- {
			want.Lsh(want, uint(bits)).Or(want, big.NewInt(int64(codes[i])))
		}
		got := new(big.Int)
		for i := len(words) - 2; i >= 0; i-- {
			got.Lsh(got, 32).Or(got, big.NewInt(int64(words[i])))
		}
		require.Zero(t, want.Cmp(got))
		back := make([]uint8, n+1)
		UnpackBits(back, words, bits, n)
		require.Equal(t, codes, back[:n:n])
		require.Zero(t, back[n])
		// Bits above are dropped.
		for i := range codes {
			codes[i] |= uint8(i) << (bits % 8)
		}
		again := make([]uint32, len(words))
		masked := append([]uint8(nil), codes...)
		for i := range masked {
			masked[i] &= uint8(1<<bits - 1)
		}
		PackBits(again, codes, bits)
		PackBits(words, masked, bits)
		require.Equal(t, words[:len(words)-1], again[:len(words)-1])
	})
	require.Panics(t, func() { PackBits(nil, nil, 9) })
}

func TestPow24(t *testing.T) {
	worst := 0.0
	for e := float32(0x1p-49); e < 0x1p50; e *= 1.00037 {
		want := math.Pow(float64(e), 2.4)
		worst = max(worst, math.Abs(float64(pow24(-e))-want)/want)
	}
	require.Less(t, worst, 1e-6)
	require.Zero(t, pow24(0))
	require.Zero(t, pow24(0x1p-51))
	require.Zero(t, pow24(float32(math.NaN())))
	require.InEpsilon(t, 0x1p120, pow24(float32(math.Inf(1))), 1e-6)
}

func TestPowErrTwin(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			w := floats(t, "w", n, true)
			maxq := float32(int(1)<<rapid.IntRange(1, 8).Draw(t, "bits") - 1)
			scale, zero := grids.Draw(t, "scale"), float32(rapid.IntRange(0, int(maxq)).Draw(t, "zero"))
			require.Equal(t, float64(powErrGo(w, scale, zero, maxq)), PowErr(w, scale, zero, maxq))
			scales := rapid.SliceOfN(grids, n, n).Draw(t, "scales")
			zeros := make([]float32, n)
			for i := range zeros {
				zeros[i] = float32(i % (int(maxq) + 1))
			}
			acc := randoms(n+1, 1)
			want := append([]float32(nil), acc...)
			PowErrCols(acc, w, scales, zeros, maxq)
			powErrColsGo(want, w, scales, zeros, maxq)
			require.Equal(t, bitsOf(want), bitsOf(acc))
		})
	})
}

func TestPowErr(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		w := randoms(128, 4)
		var want float64
		for _, v := range w {
			u := min(max(math.RoundToEven(float64(v/0.3))+7, 0), 15)
			want += math.Pow(math.Abs(float64(float32(0.3))*(u-7)-float64(v)), 2.4)
		}
		require.InEpsilon(t, want, PowErr(w, 0.3, 7, 15), 2e-6)
	})
}

func BenchmarkQuantize(b *testing.B) {
	const n = 4096
	w, q, d, e := randoms(n, 1), make([]uint8, n), make([]float32, n), make([]float32, n)
	scale, zero := make([]float32, n), make([]float32, n)
	for i := range scale {
		scale[i], zero[i] = 0.3, 7
	}
	words := make([]uint32, n/4)
	run := func(name string, f func()) {
		benchLevels(b, name, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				f()
			}
		})
	}
	run("MinMax", func() { MinMax(w) })
	run("MinMaxAcc", func() { MinMaxAcc(d, e, w) })
	run("AllFinite", func() { AllFinite(w) })
	run("QuantRow", func() { QuantRow(q, w, 0.3, 7, 15) })
	run("QuantCols", func() { QuantCols(q, d, e, w, scale, zero, 15) })
	run("Dequant", func() { Dequant(d, q, 0.3, 7) })
	run("DequantCols", func() { DequantCols(d, q, scale, zero) })
	run("PowErr", func() { PowErr(w, 0.3, 7, 15) })
	run("PowErrCols", func() { PowErrCols(d, w, scale, zero, 15) })
	for _, bits := range []int{2, 3, 4, 8} {
		run("Pack/bits="+string(rune('0'+bits)), func() { PackBits(words, q, bits) })
		run("Unpack/bits="+string(rune('0'+bits)), func() { UnpackBits(q, words, bits, n) })
	}
}
