package gptq_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// The grids of this file are of other kinds than the uniform one. They are
// plain loops: what is tested is that the solvers take what they are given.

// nearest sets codes and values to those of value that are nearest to x.
func nearest(codes []uint8, values, x []float32, top int, value func(u, i int) float32) {
	for i, v := range x {
		best := math.Inf(1)
		for u := range top + 1 {
			y := value(u, i)
			if d := math.Abs(float64(y) - float64(v)); d < best {
				best, codes[i] = d, uint8(u)
				if values != nil {
					values[i] = y
				}
			}
		}
	}
}

// extremes are the least and the largest of x, and 0.
func extremes(x []float32) (lo, hi float32) {
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	return lo, hi
}

// fitClipped is how the grids of this file find the parameters of a group:
// cover gives those that reach from lo to hi.
func fitClipped(g quant.Grid, x, importance []float32, clip quant.Clip, cover func(lo, hi float32) []quant.GroupParams) quant.GroupParams {
	codes, values := make([]uint8, len(x)), make([]float32, len(x))
	try := func(lo, hi float32) (best quant.GroupParams, least float64) {
		least = math.Inf(1)
		for _, p := range cover(lo, hi) {
			g.Round(codes, values, x, []float32{p.Scale}, []float32{p.Shift}, len(x))
			if e := quant.ClipError(clip, x, values, importance); e < least {
				best, least = p, e
			}
		}
		return best, least
	}
	lo, hi := extremes(x)
	if clip == quant.ClipNone {
		best, _ := try(lo, hi)
		return best
	}
	best, _ := quant.SearchClip(clip, lo, hi, try)
	return best
}

// part is importance[a:b], or nil.
func part(importance []float32, a, b int) []float32 {
	if importance == nil {
		return nil
	}
	return importance[a:b]
}

// levels has 16 levels, dense near 0, times a half float of either sign.
type levels struct{}

var table = [16]float32{-120, -92, -71, -54, -40, -27, -15, -4, 5, 16, 28, 41, 56, 73, 95, 110}

func (levels) MarshalText() ([]byte, error) { return []byte("levels16"), nil }
func (levels) Bits() int                    { return 4 }
func (levels) Span() int                    { return 1 }
func (levels) ParamBits(groups int) int64   { return 16 * int64(groups) }

func (g levels) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		if lo, hi := extremes(x[a:b]); lo-lo != 0 || hi-hi != 0 {
			return k, errors.New("weight is not finite")
		}
		p := fitClipped(g, x[a:b], part(importance, a, b), clip, func(lo, hi float32) []quant.GroupParams {
			up := max(lo/table[0], hi/table[15], 1e-6)
			down := max(-lo/table[15], -hi/table[0], 1e-6)
			return []quant.GroupParams{{Scale: tensor.RoundF16(up)}, {Scale: tensor.RoundF16(-down)}}
		})
		scale[k], shift[k] = p.Scale, 0
	}
	return 0, nil
}

func (levels) Store(scale []float32, want []float64) {
	for k, v := range want {
		if r := tensor.RoundF16(float32(v)); r != 0 && r-r == 0 {
			scale[k] = r
		}
	}
}

func (levels) Round(codes []uint8, values, x, scale, _ []float32, size int) {
	nearest(codes, values, x, 15, func(u, i int) float32 { return scale[i/size] * table[u] })
}

func (levels) Values(dst []float32, codes []uint8, scale, _ []float32, size int) {
	for i, u := range codes {
		dst[i] = scale[i/size] * table[u]
	}
}

func (levels) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	for i, u := range codes {
		dst[i] = table[u]
	}
}

// super has a scale and a minimum of 6 bits each for a group, times two half
// floats of the 4 groups of a super-block: value = d*s*u - m*t.
type super struct{}

const superSpan = 4

func (super) MarshalText() ([]byte, error) { return []byte("super"), nil }
func (super) Bits() int                    { return 4 }
func (super) Span() int                    { return superSpan }
func (super) ParamBits(groups int) int64 {
	return 12*int64(groups) + 32*int64((groups+superSpan-1)/superSpan)
}

// sixBits rounds what a super-block wants to integers from least to 63 times
// a half float.
func sixBits(v []float32, least float64) {
	var top float32
	for _, x := range v {
		top = max(top, x)
	}
	d := max(tensor.RoundF16(top/63), 0x1p-24)
	for i, x := range v {
		v[i] = d * float32(min(max(math.RoundToEven(float64(x/d)), least), 63))
	}
}

func (g super) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		if lo, hi := extremes(x[a:b]); lo-lo != 0 || hi-hi != 0 {
			return k, errors.New("weight is not finite")
		}
		p := fitClipped(g, x[a:b], part(importance, a, b), clip, func(lo, hi float32) []quant.GroupParams {
			return []quant.GroupParams{{Scale: max((hi-lo)/15, 0x1p-24), Shift: -lo}}
		})
		scale[k], shift[k] = p.Scale, p.Shift
	}
	for k := 0; k < len(scale); k += superSpan {
		end := min(k+superSpan, len(scale))
		sixBits(scale[k:end], 1)
		sixBits(shift[k:end], 0)
	}
	return 0, nil
}

func (super) Store(scale []float32, want []float64) {
	for k, v := range want {
		if v > 0 && v < 1e5 {
			scale[k] = float32(v)
		}
	}
	for k := 0; k < len(scale); k += superSpan {
		sixBits(scale[k:min(k+superSpan, len(scale))], 1)
	}
}

func (super) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	nearest(codes, values, x, 15, func(u, i int) float32 { return float32(scale[i/size]*float32(u)) - shift[i/size] })
}

func (super) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	for i, u := range codes {
		dst[i] = float32(scale[i/size]*float32(u)) - shift[i/size]
	}
}

func (super) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	for i, u := range codes {
		dst[i] = float32(u)
	}
}

// storable reports whether all of v are integers from 0 to 63 times one half float.
func storable(v []float32) bool {
	var top float32
	for _, x := range v {
		top = max(top, x)
	}
next:
	for n := float32(1); n <= 63; n++ {
		d := top / n
		if d != tensor.RoundF16(d) {
			continue
		}
		for _, x := range v {
			if d > 0 && float32(math.Round(float64(x/d)))*d != x {
				continue next
			}
		}
		return true
	}
	return false
}

// checkStored fails if a parameter could not be stored.
func checkStored(t require.TestingT, q *quant.Weight) {
	switch q.Scheme.Grid.(type) {
	case levels:
		for _, v := range q.Scales {
			require.Equal(t, tensor.RoundF16(v), v)
		}
	case super:
		groups := q.Groups()
		for l := range q.Lines() {
			for k := 0; k < groups; k += superSpan {
				a, b := l*groups+k, l*groups+min(k+superSpan, groups)
				require.True(t, storable(q.Scales[a:b]), "scales %v", q.Scales[a:b])
				require.True(t, storable(q.Shifts[a:b]), "minima %v", q.Shifts[a:b])
			}
		}
	}
}

// On any grid GPTQ loses less than rounding to nearest and refinement less
// than GPTQ; all values are on the grid, and the number of workers does not
// matter.
func TestGrids(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 1))
	const out, in = 32, 96
	w, x := normal(rng, out, in), correlated(rng, 200, in)
	for _, g := range []quant.Grid{levels{}, super{}} {
		for name, c := range map[string]struct {
			q gptq.Quantizer
			s quant.Scheme
		}{
			"oc":              {gptq.Quantizer{}, quant.Scheme{}},
			"oc dynamic":      {gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{}},
			"oc group index":  {gptq.Quantizer{Groups: gptq.GroupsDynamic}, quant.Scheme{}},
			"oc by groups":    {gptq.Quantizer{Order: gptq.OrderGroup}, quant.Scheme{}},
			"oc clip":         {gptq.Quantizer{}, quant.Scheme{Clip: true}},
			"oc dynamic clip": {gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{Clip: true, ClipInput: true}},
			"ic":              {gptq.Quantizer{}, quant.Scheme{Axis: quant.IC}},
			"ic static":       {gptq.Quantizer{Groups: gptq.GroupsStatic}, quant.Scheme{Axis: quant.IC}},
			"ic strided":      {gptq.Quantizer{}, quant.Scheme{Axis: quant.IC, Strided: true}},
		} {
			text, err := g.MarshalText()
			require.NoError(t, err)
			t.Run(fmt.Sprintf("%s/%s", text, name), func(t *testing.T) {
				s := c.s
				s.Bits, s.GroupSize, s.Grid = 4, 16, g
				loss := func(q *quant.Weight) float64 {
					checkStored(t, q)
					return quant.Loss(w, q.Dequantize(), quant.NewCalibration(x, 1).H, 1)
				}
				rtn := loss(quantize(t, quant.RTN{}, w, s, quant.NewCalibration(x, 1)))
				plain := quantize(t, c.q, w, s, quant.NewCalibration(x, 1))
				c.q.Refine = gptq.DefaultRefine()
				c.q.Workers = 1
				refined := quantize(t, c.q, w, s, quant.NewCalibration(x, 1))
				require.Less(t, loss(plain), 0.7*rtn)
				require.Less(t, loss(refined), 0.99*loss(plain))
				require.InEpsilon(t, loss(refined), quant.Sum(refined.RowLoss), 1e-3)
				c.q.Workers = 7
				require.Equal(t, refined, quantize(t, c.q, w, s, quant.NewCalibration(x, 1)))
			})
		}
	}
}

// Clipping lowers what it minimizes, on any grid.
func TestGridClip(t *testing.T) {
	rng := rand.New(rand.NewPCG(22, 1))
	const n = 64
	x, importance := normal(rng, 1, n).Data, make([]float32, n)
	for i := range importance {
		importance[i] = float32(rng.ExpFloat64())
	}
	for _, g := range []quant.Grid{levels{}, super{}} {
		for _, rule := range []quant.Clip{quant.ClipPower, quant.ClipInputs} {
			measure := func(clip quant.Clip) float64 {
				scale, shift := make([]float32, 4), make([]float32, 4)
				_, err := g.Fit(scale, shift, x, importance, n/4, clip)
				require.NoError(t, err)
				codes, values := make([]uint8, n), make([]float32, n)
				g.Round(codes, values, x, scale, shift, n/4)
				return quant.ClipError(rule, x, values, importance)
			}
			require.Less(t, measure(rule), measure(quant.ClipNone))
		}
	}
}

// twin is the uniform grid of a scheme, said as a grid of its own.
type twin struct{ s quant.Scheme }

func (g twin) MarshalText() ([]byte, error) { return []byte("twin"), nil }
func (g twin) Bits() int                    { return g.s.Bits }
func (g twin) Span() int                    { return 1 }
func (g twin) ParamBits(groups int) int64   { return 0 }

func (g twin) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		p, err := g.s.Fit(x[a:b], part(importance, a, b))
		if err != nil {
			return k, err
		}
		scale[k], shift[k] = p.Scale, p.Shift
	}
	return 0, nil
}

func (g twin) Store(scale []float32, want []float64) {
	for k, v := range want {
		if r, err := g.s.ScaleType.RoundScale(float32(v)); v > 0 && err == nil {
			scale[k] = r
		}
	}
}

func (g twin) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	for i, v := range x {
		u := math.RoundToEven(float64(v/scale[i/size])) + float64(shift[i/size])
		codes[i] = uint8(min(max(u, 0), float64(g.s.MaxCode())))
		if values != nil {
			g.Values(values[i:i+1], codes[i:i+1], scale[i/size:], shift[i/size:], 1)
		}
	}
}

func (g twin) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	for i, u := range codes {
		dst[i] = scale[i/size] * (float32(u) - shift[i/size])
	}
}

func (g twin) Slopes(dst []float32, codes []uint8, shift []float32, size int) {
	for i, u := range codes {
		dst[i] = float32(u) - shift[i/size]
	}
}

// A grid that does what the uniform one does gives the same weight, whatever
// the scheme.
func TestGridTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 160).Draw(t, "in")
		s := schemes(t, out, in)
		q := gptq.Quantizer{
			Order:   rapid.SampledFrom([]gptq.Order{gptq.OrderActivation, gptq.OrderNatural, gptq.OrderGroup}).Draw(t, "order"),
			Groups:  rapid.SampledFrom([]gptq.Groups{gptq.GroupsAuto, gptq.GroupsStatic, gptq.GroupsDynamic}).Draw(t, "groups"),
			Refine:  gptq.Refine{Rounds: rapid.IntRange(0, 2).Draw(t, "rounds")},
			Workers: 1,
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 90, in), 1)
		want := quantize(t, q, w, s, cal)
		own := quant.Scheme{Bits: s.Bits, GroupSize: s.GroupSize, Axis: s.Axis, Strided: s.Strided, Clip: s.Clip, ClipInput: s.ClipInput, Grid: twin{s}}
		got := quantize(t, q, w, own, cal)
		require.Equal(t, want.Codes, got.Codes)
		require.Equal(t, want.Scales, got.Scales)
		require.Equal(t, want.GroupIndex, got.GroupIndex)
		require.Equal(t, want.RowLoss, got.RowLoss)
		require.Equal(t, want.Dequantize(), got.Dequantize())
		for i := range got.Shifts {
			require.Equal(t, want.Shift(i), got.Shift(i))
		}
	})
}
