package quant_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

func TestGrid(t *testing.T) {
	f32 := quant.Scheme{Bits: 2, GroupSize: 1, ScaleType: quant.F32}
	with := func(change func(*quant.Scheme)) quant.Scheme {
		s := f32
		change(&s)
		return s
	}
	paper := with(func(s *quant.Scheme) { s.Range = quant.RangePaper })
	sym := with(func(s *quant.Scheme) { s.Symmetric = true })
	min1 := with(func(s *quant.Scheme) { s.MinZero = 1 })
	for name, c := range map[string]struct {
		s    quant.Scheme
		x    []float32
		want quant.GroupParams
	}{
		"range with 0":             {f32, []float32{-1, 2}, quant.GroupParams{Scale: 1, Shift: 1}},
		"positive":                 {f32, []float32{3, 6}, quant.GroupParams{Scale: 2, Shift: 0}},
		"negative":                 {f32, []float32{-3, -6}, quant.GroupParams{Scale: 2, Shift: 3}},
		"tie of the zero to even":  {f32, []float32{-1.5, 1.5}, quant.GroupParams{Scale: 1, Shift: 2}},
		"tie of the zero, below":   {f32, []float32{-0.5, 2.5}, quant.GroupParams{Scale: 1, Shift: 0}},
		"all zero":                 {f32, []float32{0, 0}, quant.GroupParams{Scale: float32(2) / 3, Shift: 2}},
		"symmetric":                {sym, []float32{-1, 3}, quant.GroupParams{Scale: 2, Shift: 2}},
		"symmetric negative":       {sym, []float32{-3, 1}, quant.GroupParams{Scale: 2, Shift: 2}},
		"symmetric all zero":       {sym, []float32{0}, quant.GroupParams{Scale: float32(2) / 3, Shift: 2}},
		"paper, two signs":         {paper, []float32{-1, 2}, quant.GroupParams{Scale: 1, Shift: 1}},
		"paper, positive":          {paper, []float32{3, 6}, quant.GroupParams{Scale: 1, Shift: 0}},
		"paper, negative":          {paper, []float32{-3, -6}, quant.GroupParams{Scale: 1, Shift: 3}},
		"paper, constant":          {paper, []float32{-2, -2}, quant.GroupParams{Scale: float32(1e-5) / 3, Shift: 3}},
		"zero-point at least 1":    {min1, []float32{0, 6}, quant.GroupParams{Scale: 3, Shift: 1}},
		"zero-point above 1 stays": {min1, []float32{-2, 1}, quant.GroupParams{Scale: 1, Shift: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.s.Fit(c.x, nil)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestScaleRange(t *testing.T) {
	for _, typ := range []quant.ScaleType{quant.F16, quant.F16Short} {
		for _, sym := range []bool{false, true} {
			for _, clip := range []bool{false, true} {
				s := quant.Scheme{Bits: 2, GroupSize: 1, ScaleType: typ, Symmetric: sym, Clip: clip}
				_, err := s.Fit([]float32{-2e5, 2e5}, nil)
				require.ErrorIs(t, err, quant.ErrScaleRange)
				_, err = s.Fit([]float32{-6e4, 6e4}, nil)
				require.NoError(t, err)
			}
		}
	}
	s := quant.Scheme{Bits: 2, GroupSize: 2, ScaleType: quant.F32}
	g, err := s.Fit([]float32{-2e5, 2e5}, nil)
	require.NoError(t, err)
	require.InEpsilon(t, 4e5/3, g.Scale, 1e-6)
	_, err = s.Fit([]float32{-math.MaxFloat32, math.MaxFloat32}, nil)
	require.ErrorIs(t, err, quant.ErrScaleRange)

	w := tensor.New(3, 4)
	w.Set(2, 3, 1e6)
	s.ScaleType = quant.F16
	_, err = quant.RTN{}.Quantize(context.Background(), w, s, nil)
	require.ErrorIs(t, err, quant.ErrScaleRange)
	require.ErrorContains(t, err, "output channel 2, group 1")
}

// Stored scales are finite numbers of their type, above 0, whatever the weights.
func TestScalesAreStorable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := schemes(t, 1, 1)
		magnitude := math.Ldexp(1, rapid.IntRange(-149, 24).Draw(t, "magnitude"))
		x := make([]float32, rapid.IntRange(1, 20).Draw(t, "n"))
		for i := range x {
			x[i] = float32(rapid.Float64Range(-1, 1).Draw(t, "x") * magnitude)
		}
		g, err := s.Fit(x, nil)
		if err != nil {
			require.ErrorIs(t, err, quant.ErrScaleRange)
			require.Greater(t, magnitude, 65504.0/2)
			return
		}
		require.Positive(t, g.Scale)
		require.False(t, math.IsInf(float64(g.Scale), 0))
		require.LessOrEqual(t, int(g.Shift), s.MaxCode())
		switch s.ScaleType {
		case quant.F16, quant.F16Short:
			require.Equal(t, tensor.RoundF16(g.Scale), g.Scale)
		case quant.BF16:
			require.Equal(t, tensor.RoundBF16(g.Scale), g.Scale)
		}
		if !s.Symmetric {
			require.GreaterOrEqual(t, int(g.Shift), s.MinZero)
		}
	})
}

func TestRoundScale(t *testing.T) {
	for _, c := range []struct {
		typ      quant.ScaleType
		in, want float32
	}{
		{quant.F32, 0.1, 0.1},
		{quant.F32, -1e30, -1e30},
		{quant.F16, 1 + 0x1p-11, 1},          // a tie
		{quant.F16, 1 + 0x3p-11, 1 + 0x1p-9}, // a tie
		{quant.F16, -(1 + 0x3p-11), -1 - 0x1p-9},
		{quant.F16, 65504, 65504},
		{quant.F16, 1e-9, 0x1p-24},
		{quant.F16, -1e-9, -0x1p-24},
		{quant.F16Short, 1 + 0x1p-7, 1},          // a tie
		{quant.F16Short, 1 + 0x3p-7, 1 + 0x1p-5}, // a tie
		{quant.F16Short, 127, 127},
		{quant.F16Short, 255.4, 256},
		{quant.F16Short, 65024, 65024},
		{quant.F16Short, 0x3p-24, 0x3p-24},
		{quant.F16Short, 0x2.7p-24, 0x2p-24},
		{quant.F16Short, 1e-9, 0x1p-24},
		{quant.BF16, 1 + 0x1p-8, 1},          // a tie
		{quant.BF16, 1 + 0x3p-8, 1 + 0x1p-6}, // a tie
		{quant.BF16, -70000, -70144},
		{quant.BF16, 3e38, 0x1.c4p127},
		{quant.BF16, 1e-45, 0x1p-126},
	} {
		got, err := c.typ.RoundScale(c.in)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v %g", c.typ, c.in)
	}
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		typ quant.ScaleType
		in  float32
	}{
		{quant.F32, inf}, {quant.F32, -inf}, {quant.F32, nan}, {quant.F16, 65505}, {quant.F16, -7e4}, {quant.F16, nan},
		{quant.F16Short, 7e4}, {quant.F16Short, 65500}, {quant.F16Short, nan},
		{quant.BF16, 0x1.fffp127}, {quant.BF16, inf}, {quant.BF16, nan},
	} {
		_, err := c.typ.RoundScale(c.in)
		require.ErrorIs(t, err, quant.ErrScaleRange, "%v %g", c.typ, c.in)
	}
}

// The minimum of a group, scale*zero-point, is a half float too, as formats
// that store it need. Codes of 4 bits leave room for that.
func TestShortScaleTimesZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := quant.Scheme{
			Bits: rapid.IntRange(2, 4).Draw(t, "bits"), GroupSize: 1, ScaleType: quant.F16Short,
			Clip: rapid.Bool().Draw(t, "clip"), ClipInput: rapid.Bool().Draw(t, "clip input"),
		}
		magnitude := math.Ldexp(1, rapid.IntRange(-30, 15).Draw(t, "magnitude"))
		x := make([]float32, rapid.IntRange(1, 20).Draw(t, "n"))
		for i := range x {
			x[i] = float32(rapid.Float64Range(-1, 1).Draw(t, "x") * magnitude)
		}
		g, err := s.Fit(x, nil)
		require.NoError(t, err)
		product := g.Scale * float32(g.Shift)
		require.Equal(t, product, tensor.RoundF16(product), "%g*%g", g.Scale, g.Shift)
	})
}

func TestMinZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		w, s := weights(t, out, in), schemes(t, out, in)
		s.MinZero, s.Symmetric = 1, false
		q := rtn(t, w, s, nil)
		for _, z := range q.Zeros {
			require.NotZero(t, z)
		}
	})
	// The step is widened so that the top of the range is not lost.
	_, d := one(t, quant.Scheme{Bits: 4, MinZero: 1}, 0, 1, 2, 14)
	require.Equal(t, []float32{0, 1, 2, 14}, d)
}

// measure is what clipping minimizes.
func measure(s quant.Scheme, g quant.GroupParams, x, importance []float32) float64 {
	var sum float64
	for i, v := range x {
		u := min(max(math.RoundToEven(float64(v/g.Scale))+float64(g.Shift), 0), float64(s.MaxCode()))
		e := math.Abs(float64(g.Scale)*(u-float64(g.Shift)) - float64(v))
		if s.ClipInput {
			sum += float64(importance[i]) * e * e
		} else {
			sum += math.Pow(e, 2.4)
		}
	}
	return sum
}

// Clipping never raises its own measure, and no shrink factor beats it.
func TestClipMinimizes(t *testing.T) {
	lower := 0
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 64).Draw(t, "n")
		s := schemes(t, 1, n)
		s.MinZero = 0 // the zero-point's own rule is another matter
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "values"), 1))
		x, importance := make([]float32, n), make([]float32, n)
		lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
		for i := range x {
			x[i] = float32(math.Exp(rng.NormFloat64()) * (rng.Float64() - 0.5))
			importance[i] = float32(rng.ExpFloat64())
			lo, hi = min(lo, x[i]), max(hi, x[i])
		}
		for _, s.ClipInput = range []bool{false, true} {
			s.Clip = true
			clipped, err := s.Fit(x, importance)
			require.NoError(t, err)
			s.Clip = false
			plain, err := s.Fit(x, importance)
			require.NoError(t, err)
			best := measure(s, clipped, x, importance)
			slack := 1e-4*best + 1e-12
			require.LessOrEqual(t, best, measure(s, plain, x, importance)+slack)
			if best < 0.9*measure(s, plain, x, importance) {
				lower++
			}
			seen, since := math.Inf(1), 0
			for i := range 80 {
				// Weighted clipping stops looking after 16 steps without gain.
				if since++; s.ClipInput && since > 16 {
					break
				}
				look := func(e float64) float64 {
					if e < seen-slack {
						seen, since = e, 0
					}
					return e
				}
				// A group with the shrunk extremes has the shrunk grid.
				p := float32(1 - float64(i)/100)
				g, err := s.Fit([]float32{p * lo, p * hi}, nil)
				require.NoError(t, err)
				require.LessOrEqual(t, best, look(measure(s, g, x, importance))+slack, "shrunk by %g", p)
				if !s.ClipInput || s.Symmetric {
					continue
				}
				for _, z := range []int{int(g.Shift) - 1, int(g.Shift) + 1} {
					if z >= 0 && z <= s.MaxCode() {
						e := measure(s, quant.GroupParams{Scale: g.Scale, Shift: float32(z)}, x, importance)
						require.LessOrEqual(t, best, look(e)+slack, "shrunk by %g, zero-point %d", p, z)
					}
				}
			}
		}
	})
	require.Positive(t, lower, "clipping never did anything")
}

// ClipInput listens to H: the weight that meets the large input is kept.
func TestClipInputFollowsTheInputs(t *testing.T) {
	x := []float32{0.31, -0.27, 0.12, -0.05, 0.22, 4, -0.18, 0.09}
	h := tensor.New(8, 8)
	for j := range 8 {
		h.Set(j, j, 1)
	}
	s := quant.Scheme{Bits: 3, GroupSize: 8, Clip: true, ClipInput: true}
	h.Set(5, 5, 1e-4)
	small := rtn(t, tensor.FromSlice(1, 8, x), s, &quant.Calibration{H: h, Tokens: 1}).Dequantize()
	h.Set(5, 5, 1e4)
	large := rtn(t, tensor.FromSlice(1, 8, x), s, &quant.Calibration{H: h, Tokens: 1}).Dequantize()
	require.InDelta(t, 4, large.At(0, 5), 0.02)
	require.Less(t, small.At(0, 5), float32(1.5))
	require.InDelta(t, 0.31, small.At(0, 0), 0.1)
	// Every group has its own inputs.
	twice := tensor.FromSlice(1, 16, append(make([]float32, 8), x...))
	wide := tensor.New(16, 16)
	for j := range 16 {
		wide.Set(j, j, 1)
	}
	wide.Set(13, 13, 1e4)
	require.InDelta(t, 4, rtn(t, twice, s, &quant.Calibration{H: wide, Tokens: 1}).Dequantize().At(0, 13), 0.02)

	none := rtn(t, tensor.FromSlice(1, 8, x), s, nil).Dequantize()
	for j := range 8 {
		h.Set(j, j, 3)
	}
	same := rtn(t, tensor.FromSlice(1, 8, x), s, &quant.Calibration{H: h, Tokens: 1}).Dequantize()
	require.Equal(t, none, same, "no calibration means that all inputs are alike")
}
