package kernel

import (
	"math"
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

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
	w, q, d := randoms(n, 1), make([]uint8, n), make([]float32, n)
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
	run("AllFinite", func() { AllFinite(w) })
	run("QuantRow", func() { QuantRow(q, w, 0.3, 7, 15) })
	run("QuantCols", func() { QuantCols(q, d, w, scale, zero, 15) })
	run("Dequant", func() { Dequant(d, q, 0.3, 7) })
	run("PowErr", func() { PowErr(w, 0.3, 7, 15) })
	for _, bits := range []int{2, 3, 4, 8} {
		run("Pack/bits="+string(rune('0'+bits)), func() { PackBits(words, q, bits) })
		run("Unpack/bits="+string(rune('0'+bits)), func() { UnpackBits(q, words, bits, n) })
	}
}
