package adadim_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// A decision is what it says: for every arm the losses of what was tried, the
// least objective chosen, ties to the earlier, and the weight that of the arm.
func TestDecision(t *testing.T) {
	methods := []quant.Quantizer{quant.RTN{Workers: 1}, gptq.Quantizer{Workers: 1}, gptq.Quantizer{Workers: 1, Refine: gptq.Refine{Rounds: 1}}}
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(2, 24).Draw(t, "out"), rapid.IntRange(2, 32).Draw(t, "in")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := scaled(normal(rng, out, in), func(int) float32 { return float32(rng.ExpFloat64()) + 0.01 }, nil)
		cal := quant.NewCalibration(correlated(rng, 3*in, in), 1)
		s := quant.Scheme{
			Bits:      rapid.IntRange(2, 5).Draw(t, "bits"),
			GroupSize: rapid.SampledFrom([]int{quant.WholeLine, 4, 8, 11}).Draw(t, "group"),
			Symmetric: rapid.Bool().Draw(t, "sym"),
			Clip:      rapid.Bool().Draw(t, "clip"),
		}
		q := adadim.Quantizer{
			Method:    rapid.SampledFrom(methods).Draw(t, "method"),
			Arms:      rapid.SampledFrom([][]adadim.Arm{nil, adadim.AllArms(), {adadim.ArmIC(), adadim.ArmOC()}, {adadim.ArmOCInputScale(), adadim.ArmICRowScale()}}).Draw(t, "arms"),
			Objective: rapid.SampledFrom([]adadim.Objective{adadim.ObjectiveLinear, adadim.ObjectiveRelative}).Draw(t, "objective"),
			Search:    rapid.SampledFrom([]adadim.Search{adadim.SearchRTN, adadim.SearchMethod}).Draw(t, "search"),
			Workers:   1,
		}
		before := w.Clone()
		got, d := choose(t, q, w, s, cal)
		require.Equal(t, before, w)
		arms := q.Arms
		if arms == nil {
			arms = adadim.PaperArms()
		}
		require.Len(t, d.Candidates, len(arms))
		size := quant.RowLosses(w, nil, cal.H, 1)
		require.InEpsilon(t, quant.Sum(size), d.OutputSize, 1e-9)
		first := 0
		for i, c := range d.Candidates {
			require.Equal(t, arms[i], c.Arm)
			want := c.Loss
			if q.Objective == adadim.ObjectiveRelative {
				want = c.Relative
			}
			require.Equal(t, want, c.Objective)
			if c.Objective < d.Candidates[first].Objective {
				first = i
			}
		}
		require.Equal(t, first, d.Chosen)
		c := d.Candidates[first]
		require.Equal(t, c.Arm.Axis, got.Scheme.Axis)
		require.Equal(t, c.Power != 0 && c.Arm.InputScale, got.InputScale != nil)
		require.Equal(t, c.Power != 0 && c.Arm.RowScale, got.RowScale != nil)

		loss := quant.RowLosses(w, got.Dequantize(), cal.H, 1)
		total := quant.Sum(size)
		require.InDelta(t, quant.Sum(loss), d.Loss, 2e-3*quant.Sum(loss)+1e-6*total)
		require.InDelta(t, quant.RelativeLoss(loss, size), d.Relative, 2e-3*quant.RelativeLoss(loss, size)+1e-6)
		if got.RowLoss != nil {
			for r, l := range got.RowLoss {
				require.InDelta(t, loss[r], l, 5e-3*loss[r]+1e-6*total, "loss of row %d", r)
			}
		}
		// The search was by the method or by rounding, as asked.
		for i, a := range arms {
			if q.Search == adadim.SearchRTN && !a.InputScale && !a.RowScale {
				s.Axis = a.Axis
				rtn := quantize(t, quant.RTN{}, w, s, cal).Dequantize()
				require.InEpsilon(t, quant.Loss(w, rtn, cal.H, 1), d.Candidates[i].Loss, 1e-9)
			}
		}
	})
}

// Searching by the method itself is never worse than the method in any arm.
func TestSearchByMethodIsTheBest(t *testing.T) {
	changed := 0
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := scaled(normal(rng, 40, 48), func(r int) float32 { return 1 + float32(r%5) }, nil)
		cal := quant.NewCalibration(correlated(rng, 150, 48), 1)
		s := quant.Scheme{Bits: 3, GroupSize: 16}
		method := gptq.Quantizer{}
		best := math.Inf(1)
		for _, s.Axis = range []quant.Axis{quant.OC, quant.IC} {
			best = min(best, quant.Sum(quantize(t, method, w, s, cal).RowLoss))
		}
		got, d := choose(t, adadim.Quantizer{Method: method, Search: adadim.SearchMethod}, w, s, cal)
		require.Equal(t, best, d.Loss)
		_, all := choose(t, adadim.Quantizer{Method: method, Search: adadim.SearchMethod, Arms: adadim.AllArms()}, w, s, cal)
		require.LessOrEqual(t, all.Loss, d.Loss)
		rounded, byRTN := choose(t, adadim.Quantizer{Method: method}, w, s, cal)
		require.GreaterOrEqual(t, byRTN.Loss, d.Loss)
		if rounded.Scheme.Axis != got.Scheme.Axis {
			changed++
		}
		// The weight is the method's own, bit for bit.
		s.Axis = got.Scheme.Axis
		require.Equal(t, quantize(t, method, w, s, cal), got)
	}
	t.Logf("the choice differs from that by rounding for %d of 12", changed)
}

// twoBands is a weight whose upper outputs want groups inside input channels,
// and whose lower ones inside output channels: there the weights are alike.
func twoBands(rng *rand.Rand) (*tensor.Matrix, *quant.Calibration) {
	const out, in = 32, 32
	row, col, w := normal(rng, 1, out).Data, normal(rng, 1, in).Data, normal(rng, out, in)
	for r := range out {
		for j := range in {
			like := 2 * col[j]
			if r >= out/2 {
				like = 2 * row[r]
			}
			w.Set(r, j, like*(1+w.At(r, j)/20))
		}
	}
	x := scaled(normal(rng, 200, in), nil, func(j int) float32 { return 1 + float32(j%8/7)*30 })
	return w, quant.NewCalibration(x, 1)
}

// The relative objective does not care how outputs are scaled: the choice and
// the codes stay. The paper's is decided by the largest outputs.
func TestRelativeObjectiveIgnoresOutputScale(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	w, cal := twoBands(rng)
	s := quant.Scheme{Bits: 3, GroupSize: 16}
	// A factor for every group of 16 rows, so that axis IC rounds the same.
	upper := func(r int) float32 { return []float32{32, 1}[r/16] }
	lower := func(r int) float32 { return []float32{1, 32}[r/16] }
	arms := []adadim.Arm{adadim.ArmOC(), adadim.ArmOCInputScale(), adadim.ArmIC()}
	for _, method := range []quant.Quantizer{quant.RTN{}, gptq.Quantizer{}} {
		for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
			relative := adadim.Quantizer{Method: method, Objective: adadim.ObjectiveRelative, Search: search, Arms: arms}
			want, d := choose(t, relative, w, s, cal)
			for _, f := range []func(int) float32{upper, lower} {
				got, e := choose(t, relative, scaled(w, f, nil), s, cal)
				require.Equal(t, d.Chosen, e.Chosen)
				require.Equal(t, want.Scheme, got.Scheme)
				require.Equal(t, want.Codes, got.Codes)
				require.Equal(t, want.Zeros, got.Zeros)
				require.Equal(t, want.InputScale, got.InputScale)
				require.Equal(t, scaled(want.Dequantize(), f, nil), got.Dequantize())
				for i, c := range d.Candidates {
					require.InEpsilon(t, c.Objective, e.Candidates[i].Objective, 1e-4)
					require.Equal(t, c.Power, e.Candidates[i].Power)
				}
			}
		}
	}
	linear := adadim.Quantizer{}
	a, _ := choose(t, linear, scaled(w, upper, nil), s, cal)
	b, _ := choose(t, linear, scaled(w, lower, nil), s, cal)
	require.Equal(t, quant.IC, a.Scheme.Axis)
	require.Equal(t, quant.OC, b.Scheme.Axis)
}

// Arms that have nothing to gain change nothing and store nothing.
func TestNothingToGain(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	const out, in = 16, 24
	x, w := tensor.New(64, in), tensor.New(out, in)
	for i := range x.Data {
		x.Data[i] = float32(1 - 2*rng.IntN(2)) // |x| is 1
	}
	for r := range out {
		for j := range in {
			w.Set(r, j, float32((j*5+r*7)%in)-11.5) // every row the same values
		}
	}
	cal := quant.NewCalibration(x, 1)
	for _, method := range []quant.Quantizer{quant.RTN{}, gptq.Quantizer{}} {
		for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
			for _, pair := range [][2]adadim.Arm{{adadim.ArmOC(), adadim.ArmOCInputScale()}, {adadim.ArmIC(), adadim.ArmICRowScale()}} {
				s := quant.Scheme{Bits: 3, GroupSize: 8, Axis: pair[0].Axis}
				plain := quantize(t, method, w, s, cal)
				q := adadim.Quantizer{Method: method, Search: search, Objective: adadim.ObjectiveRelative}
				q.Arms = pair[1:]
				got, d := choose(t, q, w, s, cal)
				require.Equal(t, plain, got)
				require.Zero(t, d.Candidates[0].Power)
				// Nor does it win: ties go to the earlier arm.
				for _, arms := range [][]adadim.Arm{{pair[0], pair[1]}, {pair[1], pair[0]}} {
					q.Arms = arms
					got, d = choose(t, q, w, s, cal)
					require.Zero(t, d.Chosen)
					require.Equal(t, d.Candidates[0].Objective, d.Candidates[1].Objective)
					require.Equal(t, plain, got)
				}
			}
		}
	}
	require.Nil(t, adadim.InputScales(cal.MeanAbs, 0.5))
	require.Nil(t, adadim.RowScales(tensor.New(3, 4), 1))
	require.Nil(t, adadim.InputScales(nil, 0.5))
}

func TestTiesBetweenAxes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	w := tensor.New(8, 8)
	cal := quant.NewCalibration(normal(rng, 20, 8), 1)
	s := quant.Scheme{Bits: 3, GroupSize: 4}
	for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		got, d := choose(t, adadim.Quantizer{Search: search}, w, s, cal)
		require.Equal(t, quant.OC, got.Scheme.Axis, "no loss either way")
		margin, ok := d.Margin()
		require.True(t, ok)
		require.Zero(t, margin)
		got, _ = choose(t, adadim.Quantizer{Search: search, Arms: []adadim.Arm{adadim.ArmIC(), adadim.ArmOC()}}, w, s, cal)
		require.Equal(t, quant.IC, got.Scheme.Axis)
	}
}

// Where rows differ in scale, one scale for each repairs axis IC.
func TestRowScaleArm(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	w := scaled(normal(rng, 32, 40), func(r int) float32 { return float32(math.Exp2(float64(r*5%13) - 6)) }, nil)
	cal := quant.NewCalibration(correlated(rng, 160, 40), 1)
	s := quant.Scheme{Bits: 4, GroupSize: 16}
	for _, method := range []quant.Quantizer{quant.RTN{}, gptq.Quantizer{}} {
		q := adadim.Quantizer{Method: method, Objective: adadim.ObjectiveRelative}
		q.Arms = []adadim.Arm{adadim.ArmIC()}
		_, plain := choose(t, q, w, s, cal)
		q.Arms = []adadim.Arm{adadim.ArmICRowScale()}
		got, row := choose(t, q, w, s, cal)
		require.Less(t, row.Relative, plain.Relative/10)
		require.Equal(t, 1.0, row.Candidates[0].Power)
		require.Len(t, got.RowScale, 32)
		require.Nil(t, got.InputScale)
		worst := func(v *quant.Weight) (worst float64) {
			d := v.Dequantize()
			for r := range w.Rows {
				var err, size float64
				for j, x := range w.Row(r) {
					err += math.Pow(float64(d.At(r, j)-x), 2)
					size += float64(x) * float64(x)
				}
				worst = max(worst, err/size)
			}
			return worst
		}
		require.Less(t, worst(got), 0.1)
		s.Axis = quant.IC
		require.Greater(t, worst(quantize(t, quant.RTN{}, w, s, cal)), 0.5)
		for _, f := range got.RowScale {
			require.Equal(t, tensor.RoundF16(f), f)
		}
	}
}

// Input scales keep the function and pay where inputs differ in size.
func TestInputScaleArm(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	x := scaled(normal(rng, 200, 40), nil, func(j int) float32 {
		if j%11 == 3 {
			return 50
		}
		return 1
	})
	w, cal := normal(rng, 24, 40), quant.NewCalibration(x, 1)
	for _, method := range []quant.Quantizer{quant.RTN{}, gptq.Quantizer{}} {
		for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
			s := quant.Scheme{Bits: 3, GroupSize: 20}
			q := adadim.Quantizer{Method: method, Search: search, Arms: []adadim.Arm{adadim.ArmOC()}}
			_, plain := choose(t, q, w, s, cal)
			q.Arms = []adadim.Arm{adadim.ArmOC(), adadim.ArmOCInputScale()}
			got, d := choose(t, q, w, s, cal)
			require.Equal(t, 1, d.Chosen)
			require.Less(t, d.Loss, 0.7*plain.Loss)
			require.Len(t, got.InputScale, 40)
			require.Nil(t, got.RowScale)
			for j, f := range got.InputScale {
				require.Equal(t, tensor.RoundF16(f), f)
				require.Equal(t, j%11 == 3, f < 0.5, "the larger the input the finer its weights")
			}
			// With bits to spare the function is the weight's.
			s.Bits = 8
			fine, _ := choose(t, q, w, s, cal)
			d8 := fine.Dequantize()
			for i, v := range w.Data {
				require.InDelta(t, v, d8.Data[i], 0.15)
			}
			require.Less(t, quant.Loss(w, d8, cal.H, 1), 1e-4*plain.OutputSize)
		}
	}
}

// What a layer sees after scaling its inputs, computed from what it saw before.
func TestScaleCalibration(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	const in, out = 14, 6
	x, xq, r := correlated(rng, 51, in), correlated(rng, 51, in), normal(rng, 51, out)
	w := normal(rng, out, in)
	factor := make([]float32, in)
	for j := range factor {
		factor[j] = tensor.RoundF16(float32(rng.ExpFloat64()) + 0.1)
	}
	by := func(j int) float32 { return factor[j] }
	collect := func(x, xq *tensor.Matrix) *quant.Calibration {
		c := quant.NewPairCollector(in)
		c.AddPair(x.Clone(), xq, r, 1)
		return c.Calibration()
	}
	near := func(want, got *tensor.Matrix) {
		require.Equal(t, []int{want.Rows, want.Cols}, []int{got.Rows, got.Cols})
		var size float64
		for _, v := range want.Data {
			size = max(size, math.Abs(float64(v)))
		}
		for i, v := range want.Data {
			require.InDelta(t, v, got.Data[i], 1e-5*size)
		}
	}
	cal, want := collect(x, xq), collect(scaled(x, nil, by), scaled(xq, nil, by))
	h0 := cal.H.Clone()
	sw, got := adadim.ScaleInputs(w, cal, factor)
	require.Equal(t, h0, cal.H)
	pairs := [][2]*quant.Calibration{{want, got}, {want.Halves[0], got.Halves[0]}, {want.Halves[1], got.Halves[1]}}
	for _, p := range pairs {
		near(p[0].H, p[1].H)
		near(p[0].Cross, p[1].Cross)
		near(p[0].Residual, p[1].Residual)
		require.Equal(t, p[0].Tokens, p[1].Tokens)
	}
	for j, m := range got.MeanAbs {
		require.InEpsilon(t, want.MeanAbs[j], m, 1e-5)
	}
	near(w, scaled(sw, nil, by))
	size, scaledSize := quant.RowLosses(w, nil, cal.H, 1), quant.RowLosses(sw, nil, got.H, 1)
	for r := range size {
		require.InEpsilon(t, size[r], scaledSize[r], 1e-4)
	}
	bare := adadim.ScaleCalibration(&quant.Calibration{H: cal.H, Tokens: 3}, factor)
	require.Nil(t, bare.Cross)
	require.Nil(t, bare.Residual)
	require.Nil(t, bare.MeanAbs)
	require.Nil(t, bare.Halves[0])
}

func TestScales(t *testing.T) {
	// 1/s_j with s_j = (mean |x_j|)^power, the extremes reciprocal.
	require.Equal(t, []float32{2, 1, 0.5}, adadim.InputScales([]float32{1, 4, 16}, 0.5))
	require.Equal(t, []float32{4, 1, 0.25}, adadim.InputScales([]float32{1, 4, 16}, 1))
	// Channels without a size are left as they are.
	nan := float32(math.NaN())
	require.Equal(t, []float32{2, 1, 0.5, 1}, adadim.InputScales([]float32{1, 0, 16, nan}, 0.5))
	require.Nil(t, adadim.InputScales([]float32{0, 0, 3, 3}, 0.5))
	// Rows by their root mean square.
	w := tensor.FromSlice(4, 2, []float32{1, 7, 5, 5, 0, 0, 30, -40})
	got := adadim.RowScales(w, 1)
	ratio := math.Sqrt(50)
	require.InEpsilon(t, 1/math.Sqrt(ratio), got[0], 1e-3)
	require.InEpsilon(t, 1/math.Sqrt(ratio), got[1], 1e-3)
	require.Equal(t, float32(1), got[2], "a row of zeros")
	require.InEpsilon(t, math.Sqrt(ratio), got[3], 1e-3)
	half := adadim.RowScales(w, 0.5)
	require.InEpsilon(t, math.Sqrt(math.Sqrt(ratio)), half[3], 1e-3)
	// Half floats, whatever the spread.
	for _, f := range adadim.InputScales([]float32{1e-30, 1, 1e30}, 1) {
		require.True(t, f >= 0x1p-14 && f <= 0x1p14)
	}
}

func TestMargin(t *testing.T) {
	oc, ic := adadim.ArmOC(), adadim.ArmIC()
	c := func(a adadim.Arm, objective float64) adadim.Candidate {
		return adadim.Candidate{Arm: a, Objective: objective, Measured: true}
	}
	for name, tt := range map[string]struct {
		c    []adadim.Candidate
		want float64
		ok   bool
	}{
		"oc better":      {[]adadim.Candidate{c(oc, 1), c(ic, math.E)}, 1, true},
		"ic better":      {[]adadim.Candidate{c(ic, 1), c(oc, math.E)}, -1, true},
		"best of each":   {[]adadim.Candidate{c(oc, 9), c(adadim.ArmOCInputScale(), 2), c(ic, 8), c(adadim.ArmICRowScale(), 4)}, math.Ln2, true},
		"one axis":       {[]adadim.Candidate{c(oc, 1), c(adadim.ArmOCInputScale(), 2)}, 0, false},
		"other axis":     {[]adadim.Candidate{c(ic, 1)}, 0, false},
		"nothing":        {nil, 0, false},
		"not measured":   {[]adadim.Candidate{{Arm: oc}, {Arm: ic}}, 0, false},
		"no loss on oc":  {[]adadim.Candidate{c(oc, 0), c(ic, 1)}, -math.Log(math.SmallestNonzeroFloat64), true},
		"no loss on ic":  {[]adadim.Candidate{c(oc, 1), c(ic, 0)}, math.Log(math.SmallestNonzeroFloat64), true},
		"no loss at all": {[]adadim.Candidate{c(oc, 0), c(ic, 0)}, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			margin, ok := (&adadim.Decision{Candidates: tt.c}).Margin()
			require.InDelta(t, tt.want, margin, 1e-12)
			require.Equal(t, tt.ok, ok)
		})
	}
}

// The block objective asks the block about every candidate, dequantized.
func TestBlockObjective(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	w, cal := normal(rng, 16, 24), quant.NewCalibration(correlated(rng, 90, 24), 1)
	s := quant.Scheme{Bits: 3, GroupSize: 8}
	for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		var asked []*tensor.Matrix
		verdict := map[bool]float64{}
		q := adadim.Quantizer{Method: gptq.Quantizer{}, Search: search, Objective: adadim.ObjectiveBlock}
		blockLoss := func(_ context.Context, approx *tensor.Matrix) (float64, error) {
			asked = append(asked, approx)
			return verdict[len(asked)%2 == 0], nil
		}
		var method quant.Quantizer = quant.RTN{}
		if search == adadim.SearchMethod {
			method = q.Method
		}
		for _, axis := range []quant.Axis{quant.OC, quant.IC} {
			asked = nil
			verdict[false], verdict[true] = 3, 3-float64(axis) // of OC and of IC
			got, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal, BlockLoss: blockLoss}, s)
			require.NoError(t, err)
			require.Equal(t, axis, got.Scheme.Axis)
			require.Equal(t, []float64{3, 3 - float64(axis)}, []float64{d.Candidates[0].Objective, d.Candidates[1].Objective})
			require.Len(t, asked, 2)
			for i, s := range []quant.Scheme{{Bits: 3, GroupSize: 8}, {Bits: 3, GroupSize: 8, Axis: quant.IC}} {
				require.Equal(t, quantize(t, method, w, s, cal).Dequantize(), asked[i])
			}
			s.Axis = axis
			require.Equal(t, quantize(t, q.Method, w, s, cal), got)
		}
	}
}

// stepwise rounds to nearest as its draft; finished, a weight is said to have lost
// a tenth of that.
type stepwise struct{ finished *[]quant.Axis }

func (m stepwise) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	draft, err := m.Draft().Quantize(ctx, w, s, cal)
	if err != nil {
		return nil, err
	}
	return m.Finish(ctx, w, s, cal, draft)
}

func (m stepwise) Draft() quant.Quantizer { return quant.RTN{Workers: 1} }

func (m stepwise) Finish(_ context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration, draft *quant.Weight) (*quant.Weight, error) {
	*m.finished = append(*m.finished, s.Axis)
	out := *draft
	out.RowLoss = quant.RowLosses(w, draft.Dequantize(), cal.H, 1)
	for r := range out.RowLoss {
		out.RowLoss[r] /= 10
	}
	return &out, nil
}

// The method goes on where its draft is, or is nearly, the best.
func TestFinishesTheBest(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 15))
	s := quant.Scheme{Bits: 3, GroupSize: 8}
	for name, c := range map[string]struct {
		outlier  float32 // that the last row is multiplied by: bad for groups of axis IC
		finished []quant.Axis
	}{
		"far":  {1000, []quant.Axis{quant.OC}},
		"near": {1, []quant.Axis{quant.OC, quant.IC}},
	} {
		t.Run(name, func(t *testing.T) {
			w, cal := normal(rng, 256, 256), quant.NewCalibration(normal(rng, 1024, 256), 1)
			for j := range w.Cols {
				w.Set(w.Rows-1, j, c.outlier*w.At(w.Rows-1, j))
			}
			var finished []quant.Axis
			got, d, err := adadim.Quantizer{Method: stepwise{&finished}, Search: adadim.SearchMethod, Objective: adadim.ObjectiveRelative}.
				Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, s)
			require.NoError(t, err)
			require.Equal(t, c.finished, finished)
			draft := quantize(t, quant.RTN{}, w, got.Scheme, cal)
			require.InEpsilon(t, quant.Loss(w, draft.Dequantize(), cal.H, 1)/10, d.Loss, 1e-6)
			require.Equal(t, d.Loss, d.Candidates[d.Chosen].Loss)
		})
	}
}

// An arm that stores more bits than it is worth is not chosen if bits count.
func TestCountBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(16, 16))
	w, x := normal(rng, 64, 256), normal(rng, 1024, 256)
	for j := range w.Cols {
		f := float32(1 + 0.2*float64(j%8)) // little to gain for a scale of the inputs, a quarter of a bit a weight
		for i := range x.Rows {
			x.Set(i, j, f*x.At(i, j))
		}
	}
	cal := quant.NewCalibration(x, 1)
	arms := []adadim.Arm{adadim.ArmOC(), adadim.ArmOCInputScale()}
	for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		for _, count := range []bool{false, true} {
			q := adadim.Quantizer{Method: gptq.Quantizer{}, Arms: arms, Search: search, CountBits: count}
			got, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, quant.Scheme{Bits: 3, GroupSize: 64})
			require.NoError(t, err)
			require.Equal(t, count, got.InputScale == nil, "%v %v: %+v", search, count, d.Candidates)
		}
	}
}

// Where a scale makes no difference there is none.
func TestTiesBetweenPowers(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 14))
	w, cal := normal(rng, 16, 24), quant.NewCalibration(correlated(rng, 90, 24), 1)
	for _, arm := range []adadim.Arm{adadim.ArmOCInputScale(), adadim.ArmICRowScale()} {
		asked := 0
		q := adadim.Quantizer{Arms: []adadim.Arm{arm}, Objective: adadim.ObjectiveBlock}
		blockLoss := func(context.Context, *tensor.Matrix) (float64, error) { asked++; return 5, nil }
		got, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal, BlockLoss: blockLoss}, quant.Scheme{Bits: 3, GroupSize: 8})
		require.NoError(t, err)
		require.Greater(t, asked, 2)
		require.Zero(t, d.Candidates[0].Power)
		require.Nil(t, got.InputScale)
		require.Nil(t, got.RowScale)
	}
}

// A method may have scales of its own where the arm has none.
func TestScalesOfTheMethod(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 15))
	w, cal := normal(rng, 16, 24), quant.NewCalibration(correlated(rng, 90, 24), 1)
	q := adadim.Quantizer{Search: adadim.SearchMethod, Method: fixed(func(w *tensor.Matrix, s quant.Scheme) (*quant.Weight, error) {
		half := func(int) float32 { return 0.5 }
		q, err := quant.RTN{}.Quantize(ctx, scaled(w, half, nil), s, nil)
		for range w.Rows {
			q.RowScale = append(q.RowScale, 2)
		}
		return q, err
	})}
	got, d := choose(t, q, w, quant.Scheme{Bits: 3, GroupSize: 8}, cal)
	require.Len(t, got.RowScale, 16)
	require.InEpsilon(t, quant.Loss(w, got.Dequantize(), cal.H, 1), d.Loss, 1e-9)
	require.Less(t, d.Loss, d.OutputSize/10)
}

func TestNoCalibration(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 10))
	w := normal(rng, 12, 18)
	s := quant.Scheme{Bits: 4, GroupSize: 6}
	for _, cal := range []*quant.Calibration{nil, {H: tensor.New(18, 18)}} {
		for _, arm := range adadim.AllArms() {
			q := adadim.Quantizer{Arms: []adadim.Arm{arm, adadim.ArmOC()}, Method: gptq.Quantizer{}}
			got, d := choose(t, q, w, s, cal)
			s.Axis = arm.Axis
			require.Equal(t, quantize(t, gptq.Quantizer{}, w, s, nil), got, "the first arm, without its scale")
			require.Equal(t, []adadim.Candidate{{Arm: arm}}, d.Candidates)
			_, ok := d.Margin()
			require.False(t, ok)
		}
	}
}

// fixed is a method that does as it is told.
type fixed func(w *tensor.Matrix, s quant.Scheme) (*quant.Weight, error)

func (f fixed) Quantize(_ context.Context, w *tensor.Matrix, s quant.Scheme, _ *quant.Calibration) (*quant.Weight, error) {
	return f(w, s)
}

func TestErrors(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 11))
	w := scaled(normal(rng, 12, 18), func(r int) float32 { return 1 + float32(r) }, nil)
	cal := quant.NewCalibration(correlated(rng, 60, 18), 1)
	s := quant.Scheme{Bits: 4, GroupSize: 6}
	broken := errors.New("broken")
	failing := fixed(func(*tensor.Matrix, quant.Scheme) (*quant.Weight, error) { return nil, broken })
	scaling := fixed(func(w *tensor.Matrix, s quant.Scheme) (*quant.Weight, error) {
		q, err := quant.RTN{}.Quantize(ctx, w, s, nil)
		q.RowScale = make([]float32, w.Rows)
		return q, err
	})
	failingOnIC := fixed(func(w *tensor.Matrix, s quant.Scheme) (*quant.Weight, error) {
		if s.Axis == quant.IC {
			return nil, broken
		}
		return quant.RTN{}.Quantize(ctx, w, s, nil)
	})
	block := func(loss float64, err error) func(context.Context, *tensor.Matrix) (float64, error) {
		return func(context.Context, *tensor.Matrix) (float64, error) { return loss, err }
	}
	nan := quant.NewCalibration(correlated(rng, 60, 18), 1)
	nan.H.Set(2, 2, float32(math.NaN()))
	for name, c := range map[string]struct {
		q     adadim.Quantizer
		cal   *quant.Calibration
		block func(context.Context, *tensor.Matrix) (float64, error)
		want  string
		is    error
	}{
		"row scale on oc":    {adadim.Quantizer{Arms: []adadim.Arm{{Axis: quant.OC, RowScale: true}}}, cal, nil, "invalid adadim options: arm oc+row: input scales need axis oc, row scales axis ic", adadim.ErrOptions},
		"input scale on ic":  {adadim.Quantizer{Arms: []adadim.Arm{adadim.ArmOC(), {Axis: quant.IC, InputScale: true}}}, cal, nil, "invalid adadim options: arm ic+in: input scales need axis oc, row scales axis ic", adadim.ErrOptions},
		"objective":          {adadim.Quantizer{Objective: 9}, cal, nil, "invalid adadim options: unknown objective 9, want linear, relative, block or curvature", adadim.ErrOptions},
		"search":             {adadim.Quantizer{Search: 9}, cal, nil, "invalid adadim options: unknown search 9, want rtn or method", adadim.ErrOptions},
		"order of GPTQ":      {adadim.Quantizer{Method: gptq.Quantizer{Order: 9}}, nil, nil, "invalid gptq options: unknown column order 9, want activation, natural or group", gptq.ErrOptions},
		"no block":           {adadim.Quantizer{Objective: adadim.ObjectiveBlock}, cal, nil, "invalid adadim options: objective block needs the surrounding block", adadim.ErrOptions},
		"method":             {adadim.Quantizer{Method: failing}, cal, nil, "broken", broken},
		"method, no data":    {adadim.Quantizer{Method: failing}, nil, nil, "broken", broken},
		"method in search":   {adadim.Quantizer{Method: failingOnIC, Search: adadim.SearchMethod}, cal, nil, "broken", broken},
		"scales twice":       {adadim.Quantizer{Method: scaling, Arms: []adadim.Arm{adadim.ArmICRowScale(), adadim.ArmOC()}, Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod}, cal, nil, "the method returned row or input scales of its own: they do not compose with an arm's", adadim.ErrOwnScales},
		"block":              {adadim.Quantizer{Objective: adadim.ObjectiveBlock}, cal, block(0, broken), "broken", broken},
		"block, NaN":         {adadim.Quantizer{Objective: adadim.ObjectiveBlock}, cal, block(math.NaN(), nil), "arm oc: the loss is not a number", adadim.ErrLoss},
		"statistics, NaN":    {adadim.Quantizer{}, nan, nil, "arm oc: the loss is not a number", adadim.ErrLoss},
		"statistics by GPTQ": {adadim.Quantizer{Method: gptq.Quantizer{}, Search: adadim.SearchMethod}, nan, nil, gptq.ErrNotFinite.Error(), gptq.ErrNotFinite},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := c.q.Choose(ctx, adadim.Layer{Weight: w, Calibration: c.cal, BlockLoss: c.block}, s)
			require.EqualError(t, err, c.want)
			require.ErrorIs(t, err, c.is)
			require.Nil(t, got)
			if c.block != nil {
				return // Quantize has none
			}
			got, err = c.q.Quantize(ctx, w, s, c.cal)
			require.EqualError(t, err, c.want)
			require.Nil(t, got)
		})
	}
	_, _, err := adadim.Quantizer{}.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, quant.Scheme{})
	require.ErrorIs(t, err, quant.ErrScheme)
	done, cancel := context.WithCancel(ctx)
	cancel()
	for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		// A method that does not listen does not matter.
		q := adadim.Quantizer{Search: search, Method: fixed(func(w *tensor.Matrix, s quant.Scheme) (*quant.Weight, error) {
			return quant.RTN{}.Quantize(ctx, w, s, nil)
		})}
		_, _, err = q.Choose(done, adadim.Layer{Weight: w, Calibration: cal}, s)
		require.ErrorIs(t, err, context.Canceled)
	}
}

// The scheme's own axis is ignored, and strided groups are for axis IC only.
func TestSchemeOfTheArms(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 12))
	w, cal := normal(rng, 16, 24), quant.NewCalibration(correlated(rng, 90, 24), 1)
	s := quant.Scheme{Bits: 3, GroupSize: 4, Axis: quant.IC, Strided: true}
	for _, arm := range []adadim.Arm{adadim.ArmOC(), adadim.ArmIC()} {
		got, _ := choose(t, adadim.Quantizer{Arms: []adadim.Arm{arm}}, w, s, cal)
		want := s
		want.Axis, want.Strided = arm.Axis, arm.Axis == quant.IC
		require.Equal(t, want, got.Scheme)
		require.Equal(t, quantize(t, quant.RTN{}, w, want, cal), got)
	}
	// No arms means those of the paper.
	a, d := choose(t, adadim.Quantizer{Arms: []adadim.Arm{}}, w, s, cal)
	b, e := choose(t, adadim.Quantizer{}, w, s, cal)
	require.Equal(t, b, a)
	require.Equal(t, e, d)
}

func TestWorkers(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 13))
	w := scaled(normal(rng, 100, 90), func(r int) float32 { return 1 + float32(r%7) }, nil)
	x := correlated(rng, 200, 90)
	for _, search := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		type result struct {
			w *quant.Weight
			d *adadim.Decision
		}
		var got [2]result
		for i, n := range []int{1, 8} {
			q := adadim.Quantizer{Method: gptq.Quantizer{Workers: n}, Arms: adadim.AllArms(), Search: search, Workers: n, Objective: adadim.ObjectiveRelative}
			got[i].w, got[i].d = choose(t, q, w, quant.Scheme{Bits: 3, GroupSize: 32}, quant.NewCalibration(x, n))
		}
		require.Equal(t, got[0], got[1])
	}
}

func TestParse(t *testing.T) {
	all := adadim.AllArms()
	require.Equal(t, []string{"oc", "oc+in", "ic", "ic+row"}, []string{all[0].String(), all[1].String(), all[2].String(), all[3].String()})
	for in, want := range map[string][]adadim.Arm{
		"paper":           {adadim.ArmOC(), adadim.ArmIC()},
		"all":             all,
		"oc":              {adadim.ArmOC()},
		"ic+row,oc":       {adadim.ArmICRowScale(), adadim.ArmOC()},
		"oc,oc+in,ic":     all[:3],
		"":                nil,
		"oc,":             nil,
		"oc, ic":          nil,
		"ic+in":           nil,
		"oc,paper":        nil,
		"OC":              nil,
		"oc+in+row,oc+in": nil,
	} {
		got, err := adadim.ParseArms(in)
		if want == nil {
			require.ErrorContains(t, err, "want paper, all, or a list of oc, oc+in, ic, ic+row", "%q", in)
			continue
		}
		require.NoError(t, err, "%q", in)
		require.Equal(t, want, got)
	}
	for _, o := range []adadim.Objective{adadim.ObjectiveLinear, adadim.ObjectiveRelative, adadim.ObjectiveBlock} {
		got, err := adadim.ParseObjective(o.String())
		require.NoError(t, err)
		require.Equal(t, o, got)
	}
	for _, s := range []adadim.Search{adadim.SearchRTN, adadim.SearchMethod} {
		got, err := adadim.ParseSearch(s.String())
		require.NoError(t, err)
		require.Equal(t, s, got)
	}
	for _, bad := range []string{"", "Linear", "rtn ", "both"} {
		_, err := adadim.ParseObjective(bad)
		require.EqualError(t, err, fmt.Sprintf("invalid adadim options: unknown objective %q, want linear, relative, block or curvature", bad))
		_, err = adadim.ParseSearch(bad)
		require.EqualError(t, err, fmt.Sprintf("invalid adadim options: unknown search %q, want rtn or method", bad))
	}
	require.Equal(t, []string{"Objective(4)", "Search(2)"}, []string{adadim.Objective(4).String(), adadim.Search(2).String()})
}

// TestCurvature: the arm with the least loss under curvature is chosen, whose loss a row
// scale does not change, and without curvature it is that of the relative loss.
func TestCurvature(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	const out, in = 32, 48
	w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 100, in), 1)
	for r := range out {
		for j := range w.Row(r) {
			w.Row(r)[j] *= float32(1 + r%5)
		}
	}
	s := quant.Scheme{Bits: 3, GroupSize: 16}
	o := quant.NewCalibration(correlated(rng, 100, out), 1).H
	q := adadim.Quantizer{Method: gptq.Quantizer{Refine: gptq.DefaultRefine()}, Arms: adadim.AllArms(), Objective: adadim.ObjectiveCurvature, Search: adadim.SearchMethod}
	got, d, err := q.Choose(context.Background(), adadim.Layer{Weight: w, Calibration: cal.WithOutput(o)}, s)
	require.NoError(t, err)
	want := quant.CurvedLoss(w, got.Dequantize(), cal.H, o, 1)
	require.InEpsilon(t, want, d.Candidates[d.Chosen].Objective, 1e-5)
	for _, c := range d.Candidates {
		require.GreaterOrEqual(t, c.Objective, want*(1-1e-5))
	}
	q.Objective = adadim.ObjectiveRelative
	_, relative, err := q.Choose(context.Background(), adadim.Layer{Weight: w, Calibration: cal}, s)
	require.NoError(t, err)
	q.Objective = adadim.ObjectiveCurvature
	_, without, err := q.Choose(context.Background(), adadim.Layer{Weight: w, Calibration: cal}, s)
	require.NoError(t, err)
	require.Equal(t, relative, without)

	factor, scaled := make([]float32, out), w.Clone()
	for r := range factor {
		factor[r] = float32(1 + r%3)
		for j := range scaled.Row(r) {
			scaled.Row(r)[j] /= factor[r]
		}
	}
	approx := got.Dequantize()
	for r, f := range factor {
		for j := range approx.Row(r) {
			approx.Row(r)[j] /= f
		}
	}
	require.InEpsilon(t, want, quant.CurvedLoss(scaled, approx, cal.H, adadim.ScaleOutput(o, factor), 1), 1e-4)
}
