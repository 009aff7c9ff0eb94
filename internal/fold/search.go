package fold

import (
	"context"
	"math"

	"github.com/golowbit/lowbit/internal/ranges"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// worth is by how much the logarithm of a layer's error must fall, in the mean
// over the layers, for a scale to be folded under a method that makes up for its
// rounding: to three quarters of the error. On models with outlying channels it
// falls to half; where less is promised, the quantized model was found no better
// for it, or worse.
var worth = math.Log(4. / 3)

// Search chooses the factors of a block: for a stage those with the least
// relative error, in the geometric mean over the layers that they change. q, k
// and v lose by different orders of magnitude, and none should be given up for
// another.
type Search struct {
	Scales     *Scales
	Round      Round
	Input, Row bool // which scales are tried: of inputs, of rows of the linear before
	Balance    bool // of inputs also those that weigh the weights' columns
	MakesUp    bool // the method makes up for its rounding
	// Axes says in which channels a linear may have its groups.
	Axes func(linear int) (oc, ic bool)
	// Least is the least relative error of a linear with weight w among these axes.
	Least func(ctx context.Context, linear int, w *tensor.Matrix, oc, ic bool, cal *quant.Calibration) (float64, error)
	// Calibration returns statistics as they are once every channel j is multiplied
	// by factor[j].
	Calibration func(cal *quant.Calibration, factor []float32) *quant.Calibration
}

// Stage sets and returns the choice for a stage, one without factors if none is
// worth it. cals are what the linears see in full precision, by stage.
func (s *Search) Stage(ctx context.Context, stage int, cals []*quant.Calibration) (chosen Candidate, err error) {
	errs, err := s.newErrors(ctx, stage, cals)
	if err != nil {
		return chosen, err
	}
	least, err := errs.mean(ctx)
	if err != nil {
		return chosen, err
	}
	if s.MakesUp {
		least -= worth
	}
	for _, c := range s.candidates(stage, cals[stage]) {
		if !s.Scales.Set(stage, c.Factors, s.Round) {
			continue
		}
		e, err := errs.mean(ctx)
		if err != nil {
			return chosen, err
		}
		if e < least {
			least, chosen = e, c
		}
	}
	s.Scales.Set(stage, chosen.Factors, s.Round)
	return chosen, nil
}

// candidates lists what may be folded for a stage, after that of no scale.
func (s *Search) candidates(stage int, cal *quant.Calibration) []Candidate {
	b := s.Scales.block
	into := b.Stages[stage].Fold
	var list []Candidate
	if s.Input && cal.MeanAbs != nil {
		list = InputCandidates(into, cal.MeanAbs)
		if s.Balance {
			list = append(list, BalanceCandidates(into, cal.MeanAbs, s.columns(stage))...)
		}
	}
	if s.Row && into.Before >= 0 {
		list = append(list, RowCandidates(into, b.Linear(into.Before).Weight)...)
	}
	return list
}

// columns returns for each channel of a stage how much of the rows of the
// linears that read it lies there: the mean of w² over ‖w‖² of the row, over
// rows, summed over linears. So no row counts by its size, which the next layer
// may scale down again.
func (s *Search) columns(stage int) []float32 {
	b := s.Scales.block
	sum := make([]float64, b.Stages[stage].Width)
	for _, l := range b.Stages[stage].Linears {
		w := b.Linear(l).Weight
		for r := range w.Rows {
			var norm float64
			for _, v := range w.Row(r) {
				norm += float64(v) * float64(v)
			}
			if norm == 0 {
				continue
			}
			norm *= float64(w.Rows)
			for j, v := range w.Row(r) {
				sum[j] += float64(v) * float64(v) / norm
			}
		}
	}
	share := make([]float32, len(sum))
	for j, v := range sum {
		share[j] = float32(v)
	}
	return share
}

// stageErrors computes the error that the factors of a stage lead to.
type stageErrors struct {
	*Search
	stage  int
	cal    *quant.Calibration // of the stage, unscaled
	before *quant.Calibration // what the linear before reads, scaled; nil if it need not be looked at
	ic     map[int]float64    // by linear that reads the stage
}

func (s *Search) newErrors(ctx context.Context, stage int, cals []*quant.Calibration) (*stageErrors, error) {
	e := &stageErrors{Search: s, stage: stage, cal: cals[stage], ic: map[int]float64{}}
	b := s.Scales.block
	if l := b.Stages[stage].Fold.Before; l >= 0 {
		// Scales of rows change nothing for groups inside a row.
		if _, ic := s.Axes(l); ic {
			from := b.Linears[l].Stage
			e.before = s.Scales.Calibration(from, cals[from], s.Calibration)
		}
	}
	for _, l := range b.Stages[stage].Linears {
		// Scales of columns change nothing for groups inside a column.
		e.ic[l] = math.Inf(1)
		if _, ic := s.Axes(l); ic {
			least, err := e.least(ctx, l, false, true, e.cal)
			if err != nil {
				return nil, err
			}
			e.ic[l] = least
		}
	}
	return e, nil
}

func (e *stageErrors) least(ctx context.Context, linear int, oc, ic bool, cal *quant.Calibration) (float64, error) {
	return e.Least(ctx, linear, e.Scales.Weight(linear, e.Scales.block.Linear(linear).Weight), oc, ic, cal)
}

// mean is the logarithm of the error with the factors that there are now, in the
// mean over the layers.
func (e *stageErrors) mean(ctx context.Context) (float64, error) {
	const tiny = 1e-30 // a layer without inputs has no error
	b := e.Scales.block
	before := b.Stages[e.stage].Fold.Before
	if before >= 0 && ranges.Beyond(e.Scales.Weight(before, b.Linear(before).Weight)) {
		return math.Inf(1), nil
	}
	var logs []float64
	cal := e.Scales.Calibration(e.stage, e.cal, e.Calibration)
	for _, l := range b.Stages[e.stage].Linears {
		least := e.ic[l]
		if oc, _ := e.Axes(l); oc {
			v, err := e.least(ctx, l, true, false, cal)
			if err != nil {
				return 0, err
			}
			least = min(least, v)
		}
		logs = append(logs, math.Log(max(least, tiny)))
	}
	if e.before != nil {
		v, err := e.least(ctx, before, true, true, e.before)
		if err != nil {
			return 0, err
		}
		logs = append(logs, math.Log(max(v, tiny)))
	}
	return quant.Sum(logs) / float64(len(logs)), nil
}

// Calibration returns the statistics of a stage as they are with its factors:
// scale multiplies channels. cal may be nil.
func (s *Scales) Calibration(stage int, cal *quant.Calibration, scale func(*quant.Calibration, []float32) *quant.Calibration) *quant.Calibration {
	f := s.Input(stage)
	if f == nil || cal == nil {
		return cal
	}
	return scale(cal, f)
}
