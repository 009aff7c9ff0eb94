package gptq_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/stat"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Error feedback pays on correlated inputs, whatever the scheme: on average
// by a lot, and for every weight.
func TestBeatsRoundToNearest(t *testing.T) {
	for _, s := range []quant.Scheme{
		{Bits: 2, GroupSize: 32}, {Bits: 3, GroupSize: 32}, {Bits: 4, GroupSize: 32, Symmetric: true}, {Bits: 8, GroupSize: quant.WholeLine},
		{Bits: 3, GroupSize: 32, MinZero: 1}, {Bits: 3, GroupSize: 32, Clip: true}, {Bits: 3, GroupSize: 32, Clip: true, ClipInput: true},
		{Bits: 2, GroupSize: 16, Axis: quant.IC}, {Bits: 3, GroupSize: 16, Axis: quant.IC, Strided: true}, {Bits: 4, GroupSize: 20, Axis: quant.IC, Symmetric: true},
	} {
		for name, q := range map[string]gptq.Quantizer{
			"default": {}, "natural": {Order: gptq.OrderNatural}, "static": {Groups: gptq.GroupsStatic}, "dynamic": {Groups: gptq.GroupsDynamic},
		} {
			t.Run(fmt.Sprintf("%s/%+v", name, s), func(t *testing.T) {
				var ratios []float64
				for seed := range uint64(4) {
					rng := rand.New(rand.NewPCG(seed, 9))
					cal := quant.NewCalibration(correlated(rng, 200, 72), 1)
					w := normal(rng, 48, 72)
					rtn := quant.Loss(w, quantize(t, quant.RTN{}, w, s, cal).Dequantize(), cal.H, 1)
					ratio := quant.Loss(w, quantize(t, q, w, s, cal).Dequantize(), cal.H, 1) / rtn
					require.Less(t, ratio, 1.0)
					ratios = append(ratios, ratio)
				}
				require.Less(t, stat.Mean(ratios, nil), 0.8)
			})
		}
	}
}

// RowLoss is e_r H e_rᵀ under H as it came, without the damping, row by row.
func TestRowLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 30).Draw(t, "out"), rapid.IntRange(1, 40).Draw(t, "in")
		s := schemes(t, out, in)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, rapid.IntRange(1, 90).Draw(t, "tokens"), in), 1)
		q := gptq.Quantizer{
			Damping: rapid.SampledFrom([]float64{0, 0.1, 0.9}).Draw(t, "damping"),
			Order:   rapid.SampledFrom([]gptq.Order{gptq.OrderActivation, gptq.OrderNatural}).Draw(t, "order"),
			Groups:  rapid.SampledFrom([]gptq.Groups{gptq.GroupsAuto, gptq.GroupsStatic, gptq.GroupsDynamic}).Draw(t, "groups"),
			Workers: 1,
		}
		got := quantize(t, q, w, s, cal)
		// The sweep knows the loss under the damped H, less the damping's share.
		damped, damping := cal.H.Clone(), max(q.Damping, gptq.DefaultDamping)
		for j := range in {
			damped.Set(j, j, cal.H.At(j, j)+float32(damping*quant.Sum(diagonal(cal))/float64(in)))
		}
		// Weights up to 4 are known to half a millionth.
		unit := 5e-7 * math.Sqrt(quant.Sum(diagonal(cal)))
		approx := got.Dequantize()
		loss, _ := rowLosses(w, approx, cal.H)
		_, terms := rowLosses(w, approx, damped)
		for r, l := range got.RowLoss {
			require.GreaterOrEqual(t, l, 0.0)
			require.InDelta(t, loss[r], l, 1e-3*loss[r]+1e-5*terms[r]+unit*(unit+math.Sqrt(terms[r])), "row %d", r)
		}
	})
}

func diagonal(cal *quant.Calibration) (d []float64) {
	for _, v := range cal.Diagonal() {
		d = append(d, float64(v))
	}
	return d
}

// Static grids are those of round-to-nearest. So are the grids of a layer
// whose inputs are independent of each other, and then its codes too.
func TestGridsWithoutFeedback(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	const out, in = 24, 40
	w := normal(rng, out, in)
	cal := quant.NewCalibration(correlated(rng, 100, in), 1)
	independent := tensor.New(in, in)
	for j := range in {
		independent.Set(j, j, float32(rng.ExpFloat64())+0.1)
	}
	for _, s := range []quant.Scheme{
		{Bits: 3, GroupSize: 16}, {Bits: 3, GroupSize: 10, Axis: quant.IC}, {Bits: 4, GroupSize: 8, Axis: quant.IC, Strided: true},
		{Bits: 3, GroupSize: 16, Clip: true, ClipInput: true}, {Bits: 3, GroupSize: 10, Axis: quant.IC, Clip: true, ClipInput: true},
	} {
		for _, order := range []gptq.Order{gptq.OrderActivation, gptq.OrderNatural} {
			rtn := quantize(t, quant.RTN{}, w, s, cal)
			static := quantize(t, gptq.Quantizer{Groups: gptq.GroupsStatic, Order: order}, w, s, cal)
			require.Equal(t, rtn.Scales, static.Scales)
			require.Equal(t, rtn.Zeros, static.Zeros)
			require.NotEqual(t, rtn.Codes, static.Codes)
			rtn = quantize(t, quant.RTN{}, w, s, &quant.Calibration{H: independent, Tokens: 1})
			alone := quantize(t, gptq.Quantizer{Order: order}, w, s, &quant.Calibration{H: independent, Tokens: 1})
			require.Equal(t, rtn.Codes, alone.Codes)
			require.Equal(t, rtn.Scales, alone.Scales)
			require.Equal(t, rtn.Zeros, alone.Zeros)
		}
	}
}

// With dynamic groups under act-order a group holds the columns that were
// quantized one after the other.
func TestGroupIndex(t *testing.T) {
	const in = 10
	h := tensor.New(in, in)
	order := []int{4, 9, 0, 7, 3, 1, 8, 2, 6, 5}
	for turn, j := range order {
		h.Set(j, j, float32(100-turn))
	}
	h.Set(8, 8, h.At(2, 2)) // a tie: 2 comes first
	order[6], order[7] = 2, 8
	rng := rand.New(rand.NewPCG(6, 6))
	w := normal(rng, 3, in)
	cal := &quant.Calibration{H: h, Tokens: 1}
	s := quant.Scheme{Bits: 3, GroupSize: 4, ScaleType: quant.F32}
	q := quantize(t, gptq.Quantizer{Groups: gptq.GroupsDynamic}, w, s, cal)
	require.Len(t, q.GroupIndex, in)
	for turn, j := range order {
		require.EqualValues(t, turn/4, q.GroupIndex[j], "column %d", j)
	}
	for r := range w.Rows { // the scale of a group is that of its members
		for k := range 3 {
			lo, hi := float32(0), float32(0)
			for _, j := range order[4*k : min(4*k+4, in)] {
				lo, hi = min(lo, w.At(r, j)), max(hi, w.At(r, j))
			}
			require.InEpsilon(t, (hi-lo)/7, q.Scales[3*r+k], 1e-5)
		}
	}
	require.Nil(t, quantize(t, gptq.Quantizer{}, w, s, cal).GroupIndex)
	ties := tensor.New(96, 96)
	turn := map[float32]int{3: 0, 2: 32, 1: 64} // of the next column with this diagonal
	want := make([]int32, 96)
	for j := range want {
		d := float32(j*7%3 + 1)
		ties.Set(j, j, d)
		want[j] = int32(turn[d] / s.GroupSize)
		turn[d]++
	}
	tied := quantize(t, gptq.Quantizer{Groups: gptq.GroupsDynamic}, normal(rng, 3, 96), s, &quant.Calibration{H: ties, Tokens: 1})
	require.Equal(t, want, tied.GroupIndex, "ties keep their order")
	s.GroupSize = quant.WholeLine
	require.Nil(t, quantize(t, gptq.Quantizer{Groups: gptq.GroupsDynamic}, w, s, cal).GroupIndex, "one group needs no index")
	s.GroupSize, s.Axis = 2, quant.IC
	require.Nil(t, quantize(t, gptq.Quantizer{Groups: gptq.GroupsDynamic}, w, s, cal).GroupIndex)
}

func TestDeadInputs(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	const out, in = 20, 36
	x := correlated(rng, 80, in)
	dead := []int{0, 3, 35}
	for i := range x.Rows {
		for _, j := range dead {
			x.Set(i, j, 0)
		}
	}
	cal := quant.NewCalibration(x, 1)
	w := normal(rng, out, in)
	with := w.Clone()
	for r := range out {
		for _, j := range dead {
			with.Set(r, j, 1000) // must not widen the others' grids
		}
	}
	for _, s := range []quant.Scheme{
		{Bits: 3, GroupSize: 9}, {Bits: 3, GroupSize: 12, Symmetric: true}, {Bits: 2, GroupSize: 12, MinZero: 1, Clip: true},
		{Bits: 3, GroupSize: 8, Axis: quant.IC}, {Bits: 3, GroupSize: 8, Axis: quant.IC, Range: quant.RangePaper, ScaleType: quant.F32},
	} {
		for _, groups := range []gptq.Groups{gptq.GroupsStatic, gptq.GroupsDynamic} {
			a := quantize(t, gptq.Quantizer{Groups: groups}, w, s, cal)
			b := quantize(t, gptq.Quantizer{Groups: groups}, with, s, cal)
			require.Equal(t, a, b, "the weights of dead inputs do not matter")
			d := a.Dequantize()
			for r := range out {
				for _, j := range dead {
					require.True(t, d.At(r, j) == 0, "%+v", s)
				}
			}
		}
	}
	// All inputs dead: nothing to go by, and nothing to break.
	none := quantize(t, gptq.Quantizer{}, w, quant.Scheme{Bits: 4, GroupSize: 8}, &quant.Calibration{H: tensor.New(in, in), Tokens: 5})
	for _, v := range none.Dequantize().Data {
		require.True(t, v == 0)
	}
}

// What is not positive definite is damped until it is, and said so.
func TestDampingIsRaised(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	const out, in = 12, 30
	h := tensor.New(in, in)
	for i := range in {
		for j := range i {
			v := float32(rng.NormFloat64()) * 2
			h.Set(i, j, v)
			h.Set(j, i, v)
		}
		h.Set(i, i, 1)
	}
	w := normal(rng, out, in)
	for _, s := range []quant.Scheme{{Bits: 4, GroupSize: 8}, {Bits: 4, GroupSize: 8, Axis: quant.IC}} {
		q := quantize(t, gptq.Quantizer{}, w, s, &quant.Calibration{H: h, Tokens: 1})
		require.Equal(t, []string{"damping raised to 100: the inputs' second moments are not positive definite at 0.01"}, q.Notes)
		for _, l := range q.RowLoss {
			require.False(t, math.IsNaN(l) || l < 0)
		}
		for i, v := range q.Dequantize().Data {
			require.InDelta(t, w.Data[i], v, 1.0)
		}
	}
	// One token: of rank 1, but damping makes it definite at once.
	q := quantize(t, gptq.Quantizer{}, w, quant.Scheme{Bits: 4, GroupSize: 8}, quant.NewCalibration(normal(rng, 1, in), 1))
	require.Empty(t, q.Notes)
}

func TestNotFinite(t *testing.T) {
	ctx := context.Background()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	rng := rand.New(rand.NewPCG(9, 9))
	w := normal(rng, 6, 12)
	good := quant.NewCalibration(normal(rng, 30, 12), 1)
	for _, v := range []float32{nan, inf, -inf} {
		for _, at := range [][2]int{{5, 5}, {3, 8}} {
			if v == -inf && at[0] == at[1] {
				continue
			}
			h := good.H.Clone()
			h.Set(at[0], at[1], v)
			h.Set(at[1], at[0], v)
			for _, order := range []gptq.Order{gptq.OrderActivation, gptq.OrderNatural} {
				_, err := gptq.Quantizer{Order: order}.Quantize(ctx, w, quant.Scheme{Bits: 4, GroupSize: 4}, &quant.Calibration{H: h, Tokens: 1})
				require.ErrorIs(t, err, gptq.ErrNotFinite, "%g at %v", v, at)
			}
		}
		bad := w.Clone()
		bad.Set(4, 10, v)
		for _, groups := range []gptq.Groups{gptq.GroupsStatic, gptq.GroupsDynamic} {
			q := gptq.Quantizer{Groups: groups, Order: gptq.OrderNatural}
			_, err := q.Quantize(ctx, bad, quant.Scheme{Bits: 4, GroupSize: 4}, good)
			require.ErrorContains(t, err, "output channel 4, group 2: weight is not finite")
			_, err = q.Quantize(ctx, bad, quant.Scheme{Bits: 4, GroupSize: 4, Axis: quant.IC}, good)
			require.ErrorContains(t, err, "input channel 10, group 1: weight is not finite")
		}
	}
}

// A layer without calibration data is rounded to nearest, and says so.
func TestNoCalibration(t *testing.T) {
	w := normal(rand.New(rand.NewPCG(10, 10)), 9, 14)
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		s := quant.Scheme{Bits: 3, GroupSize: 4, Axis: axis, Clip: true}
		want := quantize(t, quant.RTN{}, w, s, nil)
		want.Notes = []string{"no calibration data: rounded to nearest"}
		require.Equal(t, want, quantize(t, gptq.Quantizer{}, w, s, nil))
		require.Equal(t, want, quantize(t, gptq.Quantizer{Refine: gptq.DefaultRefine()}, w, s, &quant.Calibration{H: tensor.New(14, 14)}))
	}
}

// The paper's range rule is for axis IC alone, as in the public code.
func TestPaperRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	w := normal(rng, 16, 16)
	for i := range w.Data {
		w.Data[i] = 1 + w.Data[i]/1000
	}
	cal := quant.NewCalibration(normal(rng, 60, 16), 1)
	s := quant.Scheme{Bits: 3, GroupSize: 16, Range: quant.RangePaper, ScaleType: quant.F32}
	oc := quantize(t, gptq.Quantizer{}, w, s, cal)
	require.Equal(t, quant.RangeZero, oc.Scheme.Range)
	require.InDelta(t, 1, oc.Dequantize().At(3, 3), 0.01)
	s.Axis = quant.IC
	ic := quantize(t, gptq.Quantizer{Groups: gptq.GroupsStatic}, w, s, cal)
	require.Equal(t, quant.RangePaper, ic.Scheme.Range)
	require.Less(t, ic.Dequantize().At(3, 3), float32(0.1))
}

func TestRefuses(t *testing.T) {
	ctx := context.Background()
	w := normal(rand.New(rand.NewPCG(12, 12)), 4, 6)
	cal := quant.NewCalibration(w, 1)
	s := quant.Scheme{Bits: 4, GroupSize: 2}
	for _, damping := range []float64{-0.01, 1} {
		_, err := gptq.Quantizer{Damping: damping}.Quantize(ctx, w, s, cal)
		require.ErrorContains(t, err, fmt.Sprintf("damping %g, want", damping))
	}
	_, err := gptq.Quantizer{}.Quantize(ctx, w, quant.Scheme{}, cal)
	require.ErrorIs(t, err, quant.ErrScheme)
	require.PanicsWithValue(t, "gptq: calibration of a different width", func() {
		_, _ = gptq.Quantizer{}.Quantize(ctx, w.T(), s, cal)
	})
	big := w.Clone()
	big.Set(1, 1, 1e7)
	_, err = gptq.Quantizer{}.Quantize(ctx, big, s, cal)
	require.ErrorIs(t, err, quant.ErrScaleRange)
}

// Neither the weight nor the calibration is modified, and what one order and
// damping leave behind in it does not disturb another.
func TestInputsAreLeftAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 13))
	w, cal := normal(rng, 10, 20), quant.NewCalibration(correlated(rng, 50, 20), 1)
	w0, h0 := w.Clone(), cal.H.Clone()
	s := quant.Scheme{Bits: 3, GroupSize: 8}
	for _, q := range []gptq.Quantizer{{}, {Order: gptq.OrderNatural}, {Damping: 0.5}, {Damping: 0.5, Order: gptq.OrderNatural}, {Refine: gptq.DefaultRefine()}} {
		fresh := quantize(t, q, w, s, &quant.Calibration{H: h0, Tokens: cal.Tokens})
		require.Equal(t, fresh, quantize(t, q, w, s, cal))
	}
	require.Equal(t, w0, w)
	require.Equal(t, h0, cal.H)
}
