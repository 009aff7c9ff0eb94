package lowbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/ranges"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// worthFolding is by how much the logarithm of a layer's error must fall, in
// the mean over the layers, for a scale to be folded under a method that
// makes up for its rounding: to three quarters of the error. On models with
// outlying channels it falls to half; where less is promised, the quantized
// model was found no better for it, or worse.
var worthFolding = math.Log(4. / 3)

// scalings lists the candidates for an input, after that of no scale.
func (r *blockRun) scalings(stage int, cal *quant.Calibration) []fold.Candidate {
	var input, row bool
	for _, a := range r.job.set.arms {
		input, row = input || a.InputScale, row || a.RowScale
	}
	into := r.block.Stages[stage].Fold
	var list []fold.Candidate
	if input && cal.MeanAbs != nil {
		list = fold.InputCandidates(into, cal.MeanAbs)
	}
	if row && into.Before >= 0 {
		list = append(list, fold.RowCandidates(into, r.block.Linear(into.Before).Weight)...)
	}
	return list
}

// foldScales chooses the scales of the block that are folded, from what its
// linears see in full precision, and gives the writer the gains and biases
// that they change. Afterwards r.scales says what becomes of each linear.
//
// The scale of an input is chosen by the least relative error (as of
// adadim.ObjectiveRelative) among each layer's arms, in the geometric mean
// over the layers that it changes: q, k and v lose by different orders of
// magnitude, and none should be given up for another.
//
// What was chosen is kept for a resume, which has no use for cals then: see
// refoldScales.
func (r *blockRun) foldScales(ctx context.Context, cals []*quant.Calibration) error {
	r.scales = fold.New(r.block)
	var choices []fold.Choice
	for stage, folds := range r.job.folds[r.block.Index].stages {
		if !folds || cals[stage].Tokens == 0 {
			continue
		}
		chosen, err := r.foldStage(ctx, stage, cals)
		if err != nil {
			return err
		}
		if chosen.Factors != nil {
			choices = append(choices, fold.Choice{Stage: stage, Candidate: chosen})
		}
	}
	data, err := json.Marshal(choices)
	if err != nil {
		return err
	}
	if err := r.job.out.Note(r.foldNote(), data); err != nil {
		return err
	}
	return r.putScales(choices)
}

func (r *blockRun) foldNote() string { return fmt.Sprintf("fold-%d", r.block.Index) }

// refoldScales takes the scales that the run that is resumed has chosen; done is
// false if it had not got that far.
func (r *blockRun) refoldScales() (done bool, err error) {
	data, ok := r.job.out.Noted(r.foldNote())
	if !ok {
		return false, nil
	}
	var choices []fold.Choice
	r.scales = fold.New(r.block)
	if err = json.Unmarshal(data, &choices); err == nil {
		err = r.scales.Apply(choices, r.round)
	}
	if err != nil {
		return false, fmt.Errorf("block %d: scales kept by the interrupted run: %w", r.block.Index, err)
	}
	return true, r.putScales(choices)
}

// putScales notes the scales in the plans of the layers and gives the writer
// what they change.
func (r *blockRun) putScales(choices []fold.Choice) error {
	for _, c := range choices {
		for _, i := range r.block.Stages[c.Stage].Linears {
			r.planOf(i).folded = c.Note
		}
	}
	stored := r.scales.Stored()
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if err := r.job.out.PutDense(name, stored[name]); err != nil {
			return err
		}
	}
	return nil
}

// foldStage sets and returns the choice for a stage, one without factors if
// none is worth it.
func (r *blockRun) foldStage(ctx context.Context, stage int, cals []*quant.Calibration) (chosen fold.Candidate, err error) {
	errs, err := r.newFoldErrors(ctx, stage, cals)
	if err != nil {
		return chosen, err
	}
	least, err := errs.mean(ctx)
	if err != nil {
		return chosen, err
	}
	if quant.NeedsCalibration(r.job.set.method) {
		least -= worthFolding
	}
	for _, s := range r.scalings(stage, cals[stage]) {
		if !r.scales.Set(stage, s.Factors, r.round) {
			continue
		}
		e, err := errs.mean(ctx)
		if err != nil {
			return chosen, err
		}
		if e < least {
			least, chosen = e, s
		}
	}
	r.scales.Set(stage, chosen.Factors, r.round)
	return chosen, nil
}

// round rounds to the type in which the source has a tensor.
func (r *blockRun) round(name string, v float32) float32 {
	switch t, _ := r.job.src.DType(name); t {
	case safetensors.F16:
		return tensor.RoundF16(v)
	case safetensors.BF16:
		return tensor.RoundBF16(v)
	}
	return v
}

// foldErrors computes the error that the factors of a stage lead to.
type foldErrors struct {
	r      *blockRun
	stage  int
	cal    *quant.Calibration // of the stage, unscaled
	before *quant.Calibration // what the linear before reads, scaled; nil if it need not be looked at
	ic     map[int]float64    // by linear that reads the stage
	method quant.Quantizer
}

func (r *blockRun) newFoldErrors(ctx context.Context, stage int, cals []*quant.Calibration) (*foldErrors, error) {
	e := &foldErrors{r: r, stage: stage, cal: cals[stage], ic: map[int]float64{}, method: r.foldMethod()}
	if l := r.block.Stages[stage].Fold.Before; l >= 0 {
		// Scales of rows change nothing for groups inside a row.
		if _, ic := split(r.planOf(l).arms); len(ic) > 0 {
			from := r.block.Linears[l].Stage
			e.before = r.scaled(from, cals[from])
		}
	}
	for _, l := range r.block.Stages[stage].Linears {
		// Scales of columns change nothing for groups inside a column.
		e.ic[l] = math.Inf(1)
		if _, ic := split(r.planOf(l).arms); len(ic) > 0 {
			least, err := e.least(ctx, l, ic, e.cal)
			if err != nil {
				return nil, err
			}
			e.ic[l] = least
		}
	}
	return e, nil
}

func (r *blockRun) planOf(linear int) *layerPlan { return r.job.plan[r.block.Linears[linear].Name] }

// split separates arms by axis.
func split(arms []adadim.Arm) (oc, ic []adadim.Arm) {
	for _, a := range arms {
		if a.Axis == quant.OC {
			oc = append(oc, a)
		} else {
			ic = append(ic, a)
		}
	}
	return oc, ic
}

// mean is the logarithm of the error with the factors that r.scales has now,
// in the mean over the layers.
func (e *foldErrors) mean(ctx context.Context) (float64, error) {
	const tiny = 1e-30 // a layer without inputs has no error
	if l := e.r.block.Stages[e.stage].Fold.Before; l >= 0 && ranges.Beyond(e.r.scales.Weight(l, e.r.block.Linear(l).Weight)) {
		return math.Inf(1), nil
	}
	var logs []float64
	cal := e.r.scaled(e.stage, e.cal)
	for _, l := range e.r.block.Stages[e.stage].Linears {
		least := e.ic[l]
		if oc, _ := split(e.r.planOf(l).arms); len(oc) > 0 {
			v, err := e.least(ctx, l, oc, cal)
			if err != nil {
				return 0, err
			}
			least = min(least, v)
		}
		logs = append(logs, math.Log(max(least, tiny)))
	}
	if e.before != nil {
		l := e.r.block.Stages[e.stage].Fold.Before
		v, err := e.least(ctx, l, e.r.planOf(l).arms, e.before)
		if err != nil {
			return 0, err
		}
		logs = append(logs, math.Log(max(v, tiny)))
	}
	return quant.Sum(logs) / float64(len(logs)), nil
}

// foldMethod is what candidates are quantized with: if the search is to be
// by the method, its draft.
func (r *blockRun) foldMethod() quant.Quantizer {
	if r.job.set.search != adadim.SearchMethod {
		return quant.RTN{Workers: r.job.set.workers}
	}
	return quant.Draft(r.job.set.method)
}

// least is the least relative error of a layer among arms.
func (e *foldErrors) least(ctx context.Context, linear int, arms []adadim.Arm, cal *quant.Calibration) (float64, error) {
	w := e.r.scales.Weight(linear, e.r.block.Linear(linear).Weight)
	q := adadim.Quantizer{
		Method: e.method, Arms: arms,
		Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod, Workers: e.r.job.set.workers,
	}
	p := e.r.planOf(linear)
	_, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, p.scheme)
	if errors.Is(err, quant.ErrScaleRange) {
		return math.Inf(1), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return d.Candidates[d.Chosen].Objective, nil
}

// scaled returns the calibration of a stage as it is with the folded scales.
func (r *blockRun) scaled(stage int, cal *quant.Calibration) *quant.Calibration {
	f := r.scales.Input(stage)
	if f == nil || cal == nil {
		return cal
	}
	return adadim.ScaleCalibration(cal, f)
}

// observeForFolding returns what the unquantized linears of the block see
// behind the quantized blocks, for those stages that folding needs.
func (r *blockRun) observeForFolding(ctx context.Context) ([]*quant.Calibration, error) {
	stages := r.block.Stages
	collectors := make([]*quant.Collector, len(stages))
	want := func(stage int) {
		if collectors[stage] == nil {
			collectors[stage] = quant.NewCollector(stages[stage].Width)
		}
	}
	for stage, folds := range r.job.folds[r.block.Index].stages {
		if !folds {
			continue
		}
		want(stage)
		if l := stages[stage].Fold.Before; l >= 0 {
			want(r.block.Linears[l].Stage)
		}
	}
	err := r.walk.Forward(ctx, r.block, r.quantized.Clone(), func(stage, _ int, f *program.Frame) error {
		if c := collectors[stage]; c != nil {
			r.observe(c, f.Input(&stages[stage]))
		}
		return nil
	})
	return calibrations(collectors), err
}
