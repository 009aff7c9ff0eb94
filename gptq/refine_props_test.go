package gptq_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// bandOf returns the unit that refinement may not make worse: the row for
// axis OC, the rows that share groups for axis IC.
func bandOf(q *quant.Weight, r int) int {
	if q.Scheme.Axis == quant.OC {
		return r
	}
	return q.Group(r)
}

// Refinement of any weight at all, however it was quantized: no unit is
// worse, nothing but codes and scales changes, and these are storable.
func TestImproveAnything(t *testing.T) {
	tried, better := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 24).Draw(t, "out"), rapid.IntRange(1, 40).Draw(t, "in")
		s := schemes(t, out, in)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w, x := normal(rng, out, in), correlated(rng, rapid.IntRange(1, 90).Draw(t, "tokens"), in)
		dead := rapid.Bool().Draw(t, "dead")
		if dead {
			for i := range x.Rows {
				x.Set(i, in/2, 0)
			}
		}
		cal := quant.NewCalibration(x, 1)
		var q *quant.Weight
		switch rapid.IntRange(0, 3).Draw(t, "source") {
		case 0:
			q = quantize(t, quant.RTN{Workers: 1}, w, s, cal)
		case 1:
			q = quantize(t, gptq.Quantizer{Workers: 1}, w, s, cal)
		case 2:
			q = quantize(t, gptq.Quantizer{Workers: 1, Groups: gptq.GroupsDynamic}, w, s, cal)
		case 3: // not quantized by anyone
			q = quant.NewWeight(out, in, s)
			for i := range q.Codes {
				q.Codes[i] = rng.Uint32()
			}
			for i := range q.Scales {
				q.Scales[i] = tensor.RoundF16(float32(rng.ExpFloat64())) + 0x1p-10
				q.Zeros[i] = uint8(rng.IntN(s.MaxCode() + 1))
			}
			if s.Axis == quant.OC && !s.Strided {
				q.GroupIndex = make([]int32, in) // as of dynamic groups
				for p := range q.GroupIndex {
					q.GroupIndex[p] = int32(rng.IntN(q.Groups()))
				}
			}
		}
		before := *q
		before.Codes = append([]uint32(nil), q.Codes...)
		before.Scales = append([]float32(nil), q.Scales...)
		got, err := gptq.Improve(context.Background(), w, q, cal, gptq.Refine{Rounds: rapid.IntRange(1, 3).Draw(t, "rounds")}, 1)
		require.NoError(t, err)
		require.NoError(t, got.Validate())
		require.Equal(t, before, *q, "the weight given was modified")
		require.Equal(t, q.Zeros, got.Zeros)
		require.Equal(t, q.GroupIndex, got.GroupIndex)
		require.Equal(t, q.Scheme, got.Scheme)
		if dead {
			a, b := codes(q), codes(got)
			for r := range out {
				require.Equal(t, a[r*in+in/2], b[r*in+in/2], "a weight that does not matter")
			}
		}
		for i, v := range got.Scales {
			require.Positive(t, v)
			if v != q.Scales[i] {
				stored, err := s.ScaleType.RoundScale(v)
				require.NoError(t, err)
				require.Equal(t, stored, v)
			}
		}

		old, oldTerms := rowLosses(w, q.Dequantize(), cal.H)
		now, terms := rowLosses(w, got.Dequantize(), cal.H)
		change := map[int]float64{}
		for r := range now {
			change[bandOf(q, r)] += now[r] - old[r] - 1e-5*oldTerms[r]
			require.InDelta(t, now[r], got.RowLoss[r], 1e-5*terms[r], "loss of row %d", r)
		}
		for u, c := range change {
			require.LessOrEqual(t, c, 0.0, "row or band %d", u)
		}
		tried++
		if quant.Sum(now) < 0.8*quant.Sum(old) {
			better++
		}
	})
	require.Greater(t, better, tried/8, "refinement hardly ever did anything") // about two thirds are better
}

// At the end no single code can be changed for the better, and no scale.
func TestImproveEndsAtAMinimum(t *testing.T) {
	for _, s := range []quant.Scheme{
		{Bits: 3, GroupSize: 8}, {Bits: 2, GroupSize: quant.WholeLine, Symmetric: true},
		{Bits: 3, GroupSize: 5, Axis: quant.IC}, {Bits: 2, GroupSize: 4, Axis: quant.IC, Strided: true},
	} {
		s.ScaleType = quant.F32
		rng := rand.New(rand.NewPCG(1, uint64(s.GroupSize)))
		const out, in = 12, 20
		w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 60, in), 1)
		q, err := gptq.Improve(context.Background(), w, quantize(t, quant.RTN{}, w, s, nil), cal, gptq.Refine{Rounds: 30, Sweeps: 30}, 1)
		require.NoError(t, err)
		loss := func() float64 {
			l, _ := rowLosses(w, q.Dequantize(), cal.H)
			return quant.Sum(l)
		}
		best := loss()
		line := make([]uint8, q.LineLen())
		for l := range q.Lines() {
			q.Line(line, l)
			for p, u := range line {
				for _, v := range []int{int(u) - 1, int(u) + 1} {
					if v < 0 || v > s.MaxCode() {
						continue
					}
					line[p] = uint8(v)
					q.SetLine(l, line)
					require.Greater(t, loss(), best*(1-1e-5), "%+v: code %d of line %d", s, p, l)
				}
				line[p] = u
			}
			q.SetLine(l, line)
		}
		// A scale that should be negative keeps the others from their best.
		improvable := 0
		for i, v := range q.Scales {
			for _, f := range []float32{0.999, 1.001} {
				q.Scales[i] = v * f
				if loss() < best*(1-1e-4) {
					improvable++
				}
			}
			q.Scales[i] = v
		}
		require.LessOrEqual(t, improvable, len(q.Scales)/10, "%+v", s)
	}
}

// A weight that is on its grid stays as it is.
func TestImproveLeavesTheOptimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 20).Draw(t, "out"), rapid.IntRange(1, 30).Draw(t, "in")
		s := schemes(t, out, in)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		q := quantize(t, quant.RTN{Workers: 1}, normal(rng, out, in), s, nil)
		cal := quant.NewCalibration(correlated(rng, 2*in, in), 1)
		got, err := gptq.Improve(context.Background(), q.Dequantize(), q, cal, gptq.DefaultRefine(), 1)
		require.NoError(t, err)
		require.Equal(t, codes(q), codes(got))
		require.Equal(t, q.Scales, got.Scales)
		require.Zero(t, quant.Sum(got.RowLoss))
	})
}

// Nothing can be said about a loss that is not a number: the weight stays.
func TestImproveWithoutALoss(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	w := normal(rng, 8, 12)
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), 1e38} {
		h := quant.NewCalibration(normal(rng, 30, 12), 1).H
		for j := range 12 {
			h.Set(3, j, v)
			h.Set(j, 3, v)
		}
		for _, axis := range []quant.Axis{quant.OC, quant.IC} {
			q := quantize(t, quant.RTN{}, w, quant.Scheme{Bits: 2, GroupSize: 4, Axis: axis}, nil)
			got, err := gptq.Improve(context.Background(), w, q, &quant.Calibration{H: h, Tokens: 1}, gptq.DefaultRefine(), 1)
			require.NoError(t, err)
			require.NoError(t, got.Validate())
			if v == 1e38 {
				continue // a loss, if a large one
			}
			require.Equal(t, q.Codes, got.Codes)
			require.Equal(t, q.Scales, got.Scales)
		}
	}
}

func TestImproveWorkers(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	w, cal := normal(rng, 150, 140), quant.NewCalibration(correlated(rng, 200, 140), 1)
	for _, s := range []quant.Scheme{{Bits: 3, GroupSize: 64}, {Bits: 3, GroupSize: 48, Axis: quant.IC}} {
		q := quantize(t, quant.RTN{}, w, s, nil)
		var got [2]*quant.Weight
		for i, workers := range []int{1, 8} {
			var err error
			got[i], err = gptq.Improve(context.Background(), w, q, &quant.Calibration{H: cal.H, Tokens: 1}, gptq.Refine{Rounds: 1}, workers)
			require.NoError(t, err)
		}
		require.Equal(t, got[0], got[1])
	}
}

func TestImproveOptions(t *testing.T) {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(4, 4))
	w, cal := normal(rng, 10, 24), quant.NewCalibration(correlated(rng, 50, 24), 1)
	s := quant.Scheme{Bits: 3, GroupSize: 8}
	q := quantize(t, gptq.Quantizer{}, w, s, cal)
	same, err := gptq.Improve(ctx, w, q, cal, gptq.Refine{}, 1)
	require.NoError(t, err)
	require.Same(t, q, same)

	better, err := gptq.Improve(ctx, w, q, cal, gptq.Refine{Rounds: 2}, 1)
	require.NoError(t, err)
	require.Equal(t, better, quantize(t, gptq.Quantizer{Refine: gptq.Refine{Rounds: 2, Sweeps: 2}}, w, s, cal))
	require.Less(t, quant.Sum(better.RowLoss), quant.Sum(q.RowLoss))

	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err = gptq.Improve(done, w, q, cal, gptq.DefaultRefine(), 1)
	require.ErrorIs(t, err, context.Canceled)

	require.PanicsWithValue(t, "gptq: refinement of mismatched shapes", func() {
		_, _ = gptq.Improve(ctx, w.T(), q, cal, gptq.DefaultRefine(), 1)
	})
	scaled := *q
	scaled.RowScale = make([]float32, 10)
	require.PanicsWithValue(t, "gptq: refinement of a weight with row or input scales", func() {
		_, _ = gptq.Improve(ctx, w, &scaled, cal, gptq.DefaultRefine(), 1)
	})
}
