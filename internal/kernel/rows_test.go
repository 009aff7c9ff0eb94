package kernel

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRowOps(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) {
			n := sizes.Draw(t, "n")
			finite := rapid.Float32Range(-30, 30)
			x := rapid.SliceOfN(finite, n, n).Draw(t, "x")
			y := rapid.SliceOfN(finite, n+1, n+1).Draw(t, "y")
			scale := rapid.Float32Range(0.01, 2).Draw(t, "scale")

			var sum, size, sq float64
			for i, v := range x {
				p := float64(v) * float64(y[i])
				sum, size, sq = sum+p, size+math.Abs(p), sq+float64(v)*float64(v)
			}
			require.InDelta(t, sum, dot(x, y[:n]), (size+1)*1e-6)

			z := append([]float32(nil), y...)
			Axpy(scale, x, z)
			for i, v := range x {
				require.InDelta(t, float64(y[i])+float64(scale)*float64(v), z[i], 1e-5)
			}
			require.Equal(t, y[n], z[n])

			z = append([]float32(nil), y...)
			RMSNorm(z[:n], x, y[:n], 1e-5)
			for i, v := range x {
				w := float64(v) / math.Sqrt(sq/float64(n)+1e-5) * float64(y[i])
				require.InDelta(t, w, z[i], 3e-6*math.Abs(w)+1e-30)
			}
			require.Equal(t, y[n], z[n])

			SiLUMul(z[:n], x, y[:n])
			for i, v := range x {
				w := float64(v) / (1 + math.Exp(-float64(v))) * float64(y[i])
				require.InDelta(t, w, z[i], 1e-6*math.Abs(w)+1e-30)
			}
			require.Equal(t, y[n], z[n])

			if n > 0 {
				hi, total := math.Inf(-1), 0.0
				for _, v := range x {
					hi = max(hi, float64(v))
				}
				for _, v := range x {
					total += math.Exp(float64(v) - hi)
				}
				require.InDelta(t, hi+math.Log(total), LogSumExp(x), 1e-6)
				z := append([]float32(nil), x...)
				got := float64(ExpShift(z, scale, float32(hi)))
				total, off := 0.0, 0.0
				for i, v := range x {
					arg := float64(scale) * (float64(v) - hi) // known to 2 roundings
					w := math.Exp(arg)
					require.InDelta(t, w, z[i], (1e-6-0x1p-23*arg)*w+1e-37)
					total, off = total+w, off+(1e-6-0x1p-23*arg)*w
				}
				require.InDelta(t, total, got, off+1e-6*total)
			}
		})
		require.True(t, math.IsInf(LogSumExp(nil), -1))
		for _, n := range []int{3, 19, 35} { // NaN comes through, -Inf becomes 0
			x := make([]float32, n)
			x[1], x[2] = float32(math.Inf(-1)), float32(math.NaN())
			require.True(t, math.IsNaN(float64(ExpShift(x, 1, 0))))
			require.Equal(t, []float32{1, 0}, x[:2])
			require.True(t, math.IsNaN(float64(x[2])))
			Scale(x, 3)
			require.Equal(t, []float32{3, 0}, x[:2])
		}
	})
}

func TestRope(t *testing.T) {
	eachLevel(t, func(t *testing.T) {
		for _, n := range []int{0, 2, 6, 32, 64, 80, 128} {
			x, a := randoms(n, 1), randoms(n/2, 2)
			cos, sin := make([]float32, n/2), make([]float32, n/2)
			for i, v := range a {
				cos[i], sin[i] = float32(math.Cos(float64(v))), float32(math.Sin(float64(v)))
			}
			y := append([]float32(nil), x...)
			Rope(y, cos, sin)
			for i := range n / 2 {
				p, q := float64(x[i]), float64(x[i+n/2])
				c, s := float64(cos[i]), float64(sin[i])
				require.InDelta(t, p*c-q*s, y[i], 1e-6)
				require.InDelta(t, q*c+p*s, y[i+n/2], 1e-6)
			}
		}
	})
}

func TestExp(t *testing.T) {
	worst := 0.0
	for x := float32(-86.9); x < 88; x += 0.00137 {
		want := math.Exp(float64(x))
		worst = max(worst, math.Abs(float64(expGo(x))-want)/want)
	}
	require.Less(t, worst, 2.5e-7)
	require.Zero(t, expGo(-1000))
}

func BenchmarkRows(b *testing.B) {
	const n = 4096
	x, y, z := randoms(n, 1), randoms(n, 2), make([]float32, n)
	run := func(name string, f func()) {
		benchLevels(b, name, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				f()
			}
		})
	}
	run("Axpy", func() { Axpy(0.5, x, z) })
	run("Dot", func() { dot(x, y) })
	run("ExpShift", func() { copy(z, x); ExpShift(z, 0.1, 5) })
	run("LogSumExp", func() { LogSumExp(x) })
	run("SiLUMul", func() { SiLUMul(z, x, y) })
	run("RMSNorm", func() { RMSNorm(z, x, y, 1e-5) })
	run("Rope", func() { Rope(z, x[:n/2], y[:n/2]) })
}
