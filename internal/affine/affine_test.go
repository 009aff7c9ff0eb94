package affine

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var types = []quant.ScaleType{quant.F16, quant.BF16, quant.F32}

func drawn(t *rapid.T) Grid {
	g, ok := Of(rapid.SampledFrom([]int{2, 3, 4, 5, 6, 8}).Draw(t, "bits"), rapid.SampledFrom(types).Draw(t, "type"))
	require.True(t, ok)
	return g
}

// sample are normal weights of one sign or both.
func sample(seed uint64, n int, size, mean float64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(size * (mean + rng.NormFloat64()))
	}
	return x
}

func loss(x, values []float32) (sum float64) {
	for i, v := range x {
		d := float64(values[i]) - float64(v)
		sum += d * d
	}
	return sum
}

// exact tells whether a type holds a value.
func exact(t quant.ScaleType, v float32) bool {
	switch t {
	case quant.F16:
		return tensor.RoundF16(v) == v
	case quant.BF16:
		return tensor.RoundBF16(v) == v
	}
	return v-v == 0
}

// TestRound: a code is that of a nearest value, element by element as in runs, and
// what is fitted can be stored.
func TestRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, size := drawn(t), rapid.SampledFrom([]int{7, 32, 128, 1100}).Draw(t, "size")
		n := size * rapid.IntRange(1, 3).Draw(t, "groups")
		n -= rapid.IntRange(0, size-1).Draw(t, "short")
		x := sample(rapid.Uint64().Draw(t, "seed"), n, rapid.SampledFrom([]float64{1e-3, 1, 100}).Draw(t, "weights"), rapid.Float64Range(-5, 5).Draw(t, "mean"))
		k := (n + size - 1) / size
		scale, shift := make([]float32, k), make([]float32, k)
		_, err := g.Fit(scale, shift, x, nil, size, rapid.SampledFrom([]quant.Clip{quant.ClipNone, quant.ClipPower, quant.ClipInputs}).Draw(t, "clip"))
		require.NoError(t, err)
		codes, values := make([]uint8, n), make([]float32, n)
		g.Round(codes, values, x, scale, shift, size)
		each, eachShift := make([]float32, n), make([]float32, n)
		all := make([]uint8, 1<<g.Bits())
		for u := range all {
			all[u] = uint8(u)
		}
		level := make([]float32, len(all))
		for i, v := range x {
			s, m := scale[i/size], shift[i/size]
			each[i], eachShift[i] = s, m
			require.True(t, s != 0 && exact(g.Type(), s) && exact(g.Type(), m), "%g %g", s, m)
			g.Values(level, all, []float32{s}, []float32{m}, len(all))
			require.Equal(t, level[codes[i]], values[i])
			near := math.Inf(1)
			for _, l := range level {
				near = min(near, math.Abs(float64(l)-float64(v)))
			}
			require.InDelta(t, near, math.Abs(float64(values[i])-float64(v)), 1e-4*math.Abs(float64(s)))
		}
		again := make([]uint8, n)
		g.Round(again, nil, x, each, eachShift, 1)
		require.Equal(t, codes, again)
	})
}

// TestClip: a shrunk range has less error than one that covers all weights, and
// less than that of zero-points.
func TestClip(t *testing.T) {
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		for _, typ := range types {
			g, _ := Of(bits, typ)
			var free, cover, uniform float64
			for seed := range uint64(40) {
				x := sample(seed, 64, 0.02, 0.3)
				at := func(s quant.Scheme) float64 {
					p, err := s.Fit(x, nil)
					require.NoError(t, err)
					codes, values := make([]uint8, len(x)), make([]float32, len(x))
					quant.GridOf(s).Round(codes, values, x, []float32{p.Scale}, []float32{p.Shift}, len(x))
					return loss(x, values)
				}
				s := g.Scheme(64)
				cover += at(s)
				s.Clip, s.ClipInput = true, true
				free += at(s)
				s.Grid, s.ScaleType = nil, typ
				uniform += at(s)
			}
			require.Less(t, free, cover, "%v", g)
			require.Less(t, free, 1.02*uniform, "%v", g)
			t.Logf("%v: %.3f of the error of the whole range, %.3f of that with zero-points", g, free/cover, free/uniform)
		}
	}
}

// TestExtremes: groups of equal weights, of zeros, and those that are refused.
func TestExtremes(t *testing.T) {
	g, _ := Of(4, quant.F16)
	for _, v := range []float32{0, 0.3, -1e-3, 5e-7, 60000} {
		p, err := g.Scheme(32).Fit([]float32{v, v, v}, nil)
		require.NoError(t, err)
		got, codes := make([]float32, 3), make([]uint8, 3)
		g.Round(codes, got, []float32{v, v, v}, []float32{p.Scale}, []float32{p.Shift}, 3)
		require.InDelta(t, v, got[2], 2e-4*math.Abs(float64(v))+1e-7)
	}
	_, err := g.Scheme(32).Fit([]float32{1e5, 2e5}, nil)
	require.ErrorIs(t, err, quant.ErrScaleRange)
	_, err = g.Scheme(32).Fit([]float32{float32(math.NaN()), 2}, nil)
	require.ErrorIs(t, err, quant.ErrNotFinite)
	scale := []float32{1, 1, 1, 1}
	g.Store(scale, []float64{math.NaN(), 0, -0.3, 1e9})
	require.Equal(t, []float32{1, 1, tensor.RoundF16(-0.3), 1}, scale)
}

// TestFitSpan: what it finds can be stored, lowers the loss it is given, and comes
// near the real minimum.
func TestFitSpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, n := drawn(t), 64
		x := sample(rapid.Uint64().Draw(t, "seed"), n, 0.05, rapid.Float64Range(-2, 2).Draw(t, "mean"))
		scale, shift := make([]float32, 1), make([]float32, 1)
		_, err := g.Fit(scale, shift, x, nil, n, quant.ClipNone)
		require.NoError(t, err)
		codes, values := make([]uint8, n), make([]float32, n)
		g.Round(codes, values, x, scale, shift, n)
		a, grad := make([]float64, 4), make([]float64, 2)
		for i, u := range codes {
			v, e := float64(u), float64(values[i])-float64(x[i])
			a[0], a[1], a[2], a[3] = a[0]+v*v, a[1]-v, a[2]-v, a[3]+1
			grad[0], grad[1] = grad[0]+v*e, grad[1]-e
		}
		before := loss(x, values)
		least := before - (a[3]*grad[0]*grad[0]-2*a[1]*grad[0]*grad[1]+a[0]*grad[1]*grad[1])/(a[0]*a[3]-a[1]*a[1])
		found := g.FitSpan(scale, shift, a, grad)
		g.Values(values, codes, scale, shift, n)
		after := loss(x, values)
		require.True(t, exact(g.Type(), scale[0]) && exact(g.Type(), shift[0]))
		if found {
			require.Less(t, after, before+1e-9)
		} else {
			require.Equal(t, before, after)
		}
		if g.Type() == quant.F32 {
			require.InDelta(t, least, after, 1e-3*before)
		}
	})
}

func TestNames(t *testing.T) {
	g, ok := Of(4, quant.BF16)
	require.True(t, ok)
	text, err := g.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "affine4 bf16", string(text))
	again, ok := Named("affine4 bf16")
	require.True(t, ok)
	require.Equal(t, g, again)
	require.NoError(t, g.Scheme(64).Validate())
	require.EqualValues(t, 3*32, g.ParamBits(3))
	for _, text := range []string{"", "affine4", "affine9 f16", "affine4 f16short", "affine4 f64", "Q4_K", "affine04 f16", "affine4 f16 x"} {
		_, ok := Named(text)
		require.False(t, ok, text)
	}
}
