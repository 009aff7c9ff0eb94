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

// Per-IC of W is per-OC of Wᵀ, transposed back, bit for bit.
func TestInputChannelsAreOutputChannelsTransposed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		w := weights(t, out, in)
		s := schemes(t, out, in)
		s.Axis, s.Strided = quant.IC, false
		ic := rtn(t, w, s, nil)
		s.Axis = quant.OC
		oc := rtn(t, w.T(), s, nil)
		require.Equal(t, oc.Codes, ic.Codes)
		require.Equal(t, oc.Scales, ic.Scales)
		require.Equal(t, oc.Zeros, ic.Zeros)
		require.Equal(t, oc.Dequantize().T(), ic.Dequantize())
	})
}

// Strided groups of W are contiguous groups of W with its rows permuted.
func TestStridedIsContiguousOfPermutedRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups, n := rapid.IntRange(1, 6).Draw(t, "groups"), rapid.IntRange(1, 9).Draw(t, "size")
		out, in := groups*n, rapid.IntRange(1, 20).Draw(t, "in")
		w := weights(t, out, in)
		s := schemes(t, out, in)
		s.Axis, s.GroupSize, s.Strided = quant.IC, n, true
		order := make([]int, 0, out) // group k holds the outputs k, k+groups, …
		moved := tensor.New(out, in)
		for k := range groups {
			for i := range n {
				copy(moved.Row(len(order)), w.Row(k+i*groups))
				order = append(order, k+i*groups)
			}
		}
		strided := rtn(t, w, s, nil)
		s.Strided = false
		contiguous := rtn(t, moved, s, nil)
		require.Equal(t, contiguous.Scales, strided.Scales)
		require.Equal(t, contiguous.Zeros, strided.Zeros)
		a, b := codes(strided), codes(contiguous)
		x, y := strided.Dequantize(), contiguous.Dequantize()
		for p, r := range order {
			require.Equal(t, b[p*in:(p+1)*in], a[r*in:(r+1)*in])
			require.Equal(t, y.Row(p), x.Row(r))
		}
	})
}

// Every code is the nearest to its weight on the grid of its group as that
// is stored, the grid of the range rule.
func TestCodesAreNearest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		w := weights(t, out, in)
		s := schemes(t, out, in)
		q := rtn(t, w, s, nil)
		deq := q.Dequantize()
		for r := range out {
			for j := range in {
				line, p := r, j
				if s.Axis == quant.IC {
					line, p = j, r
				}
				i := line*q.Groups() + q.Group(p)
				scale, zero := float64(q.Scales[i]), float64(q.Zeros[i])
				v := float64(w.At(r, j))
				inside := min(max(v, -scale*zero), scale*(float64(s.MaxCode())-zero))
				require.LessOrEqual(t, math.Abs(float64(deq.At(r, j))-inside), scale/2*(1+1e-4), "%v", v)
			}
		}
	})
}

// Without clipping the grid spans the range but for what rounding scale and
// zero-point costs.
func TestGridCoversTheGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 50).Draw(t, "n")
		w := weights(t, 1, n)
		s := schemes(t, 1, n)
		s.Axis, s.Strided, s.GroupSize, s.Clip, s.Range = quant.OC, false, quant.WholeLine, false, quant.RangeZero
		q := rtn(t, w, s, nil)
		scale := float64(q.Scales[0])
		slack := map[quant.ScaleType]float64{quant.F32: 1e-6, quant.F16: 0x1p-11, quant.F16Short: 0x1p-7, quant.BF16: 0x1p-8}[s.ScaleType]
		slack = slack*float64(s.MaxCode()) + 0.5 + 1e-3
		for i, v := range q.Dequantize().Data {
			require.LessOrEqual(t, math.Abs(float64(v-w.Data[i])), slack*scale+0x1p-25*float64(s.MaxCode()))
		}
		lo, hi := 0.0, 0.0
		for _, v := range w.Data {
			lo, hi = min(lo, float64(v)), max(hi, float64(v))
		}
		if width := hi - lo; !s.Symmetric && width > 0 {
			limit := width / float64(s.MaxCode()-s.MinZero) * (1 + 0x1p-7)
			require.LessOrEqual(t, scale, limit+0x1p-24, "a grid wider than its group")
		}
	})
}

// A group of one sign far from 0 survives the rule that includes 0 and is
// destroyed by the one of the public AdaDim code.
func TestOneSign(t *testing.T) {
	x := make([]float32, 11)
	for i := range x {
		x[i] = 1 + float32(i)/1000
	}
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		for _, scale := range []quant.ScaleType{quant.F16, quant.F32} {
			w := tensor.FromSlice(1, len(x), x)
			if axis == quant.IC {
				w = w.T()
			}
			s := quant.Scheme{Bits: 3, GroupSize: quant.WholeLine, Axis: axis, ScaleType: scale, Range: quant.RangePaper}
			require.InDelta(t, 0.010, rtn(t, w, s, nil).Dequantize().Data[5], 1e-5)
			s.Range = quant.RangeZero
			require.InDelta(t, 1.005, rtn(t, w, s, nil).Dequantize().Data[5], 0.006)
		}
	}
}

func TestAllZeroGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		s := schemes(t, out, in)
		q := rtn(t, tensor.New(out, in), s, nil)
		for _, v := range q.Dequantize().Data {
			require.True(t, v == 0, "%v of %g*(u-%d)", v, q.Scales[0], q.Zeros[0])
		}
		for _, v := range q.Scales {
			require.Positive(t, v)
		}
	})
}

// What other groups hold does not matter to an all-zero one.
func TestZeroGroupBesideOthers(t *testing.T) {
	w := tensor.FromSlice(2, 4, []float32{0, 0, 3, -1, 2, 5, 0, 0})
	q := rtn(t, w, quant.Scheme{Bits: 4, GroupSize: 2}, nil)
	d := q.Dequantize()
	require.Equal(t, []float32{0, 0}, d.Row(0)[:2])
	require.Equal(t, []float32{0, 0}, d.Row(1)[2:])
	require.InDelta(t, 3, d.At(0, 2), 0.15)
}

func TestNotFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, bad := range []float32{nan, inf, -inf} {
		w := tensor.New(5, 7)
		w.Set(3, 6, bad)
		for _, sym := range []bool{false, true} {
			for _, clip := range []bool{false, true} {
				s := quant.Scheme{Bits: 4, GroupSize: 4, Symmetric: sym, Clip: clip}
				_, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
				require.EqualError(t, err, "output channel 3, group 1: weight is not finite")
				s.Axis, s.GroupSize = quant.IC, 2
				_, err = quant.RTN{}.Quantize(context.Background(), w, s, nil)
				require.EqualError(t, err, "input channel 6, group 1: weight is not finite")
			}
		}
	}
}

func TestRTNRefuses(t *testing.T) {
	w := tensor.New(6, 4)
	for _, s := range []quant.Scheme{{}, {Bits: 4}, {Bits: 4, GroupSize: 4, Axis: quant.IC, Strided: true}} {
		_, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
		require.ErrorIs(t, err, quant.ErrScheme)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := quant.RTN{}.Quantize(ctx, w, quant.Scheme{Bits: 4, GroupSize: 2}, nil)
	require.ErrorIs(t, err, context.Canceled)
}

// Scaling input channels changes nothing under per-IC: Q(WS)S⁻¹ = Q(W).
// Scaling output rows changes nothing under per-OC.
func TestScaleInvariance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2))
		w := tensor.New(out, in)
		for i := range w.Data {
			// No scale may become a subnormal half float: those are not exact.
			w.Data[i] = float32(rng.IntN(65)-32) / 8
		}
		s := schemes(t, out, in)
		s.Range = quant.RangeZero
		s.ClipInput = true // its measure is exact under powers of two
		channels := out
		if s.Axis == quant.IC {
			channels = in
		}
		factor := make([]float32, channels)
		for i := range factor {
			factor[i] = float32(int(1) << rng.IntN(6))
		}
		scaled := w.Clone()
		for r := range out {
			for j := range in {
				c := r
				if s.Axis == quant.IC {
					c = j
				}
				scaled.Data[r*in+j] *= factor[c]
			}
		}
		a, b := rtn(t, w, s, nil), rtn(t, scaled, s, nil)
		require.Equal(t, a.Codes, b.Codes)
		require.Equal(t, a.Zeros, b.Zeros)
		da, db := a.Dequantize(), b.Dequantize()
		for r := range out {
			for j := range in {
				c := r
				if s.Axis == quant.IC {
					c = j
				}
				require.Equal(t, da.At(r, j), db.At(r, j)/factor[c])
			}
		}
	})
}

func TestGridsAreThoseOfRTN(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := shape(t)
		w, s := weights(t, out, in), schemes(t, out, in)
		cal := quant.NewCalibration(normal(rand.New(rand.NewPCG(3, uint64(in))), 9, in), 1)
		full := rtn(t, w, s, cal)
		grids, err := quant.Grids(context.Background(), w, s, cal, 1)
		require.NoError(t, err)
		require.Equal(t, full.Scales, grids.Scales)
		require.Equal(t, full.Zeros, grids.Zeros)
		for _, c := range grids.Codes {
			require.Zero(t, c)
		}
	})
}

func TestRTNWorkers(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	w := normal(rng, 130, 150)
	before := w.Clone()
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		workersAgree(t, func(workers int) *quant.Weight {
			q, err := quant.RTN{Workers: workers}.Quantize(context.Background(), w, quant.Scheme{Bits: 3, GroupSize: 64, Axis: axis, Clip: true}, nil)
			require.NoError(t, err)
			return q
		})
	}
	require.Equal(t, before, w)
}
