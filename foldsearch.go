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
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// folded searches the scales of the block that are folded.
func (r *blockRun) folded() *fold.Search {
	f := &fold.Search{
		Scales: r.scales, Round: r.round, Calibration: adadim.ScaleCalibration,
		MakesUp: quant.NeedsCalibration(r.job.set.method), Least: r.least,
		Axes: func(linear int) (oc, ic bool) {
			for _, a := range r.planOf(linear).Arms {
				oc, ic = oc || a.Axis == quant.OC, ic || a.Axis == quant.IC
			}
			return oc, ic
		},
	}
	for _, a := range r.job.set.arms {
		f.Input, f.Row = f.Input || a.InputScale, f.Row || a.RowScale
	}
	return f
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
	search := r.folded()
	var choices []fold.Choice
	for stage, folds := range r.job.plan.Folds[r.block.Index] {
		if !folds || cals[stage].Tokens == 0 {
			continue
		}
		chosen, err := search.Stage(ctx, stage, cals)
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
			r.job.folded[r.block.Linears[i].Name] = c.Note
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

func (r *blockRun) planOf(linear int) *fitting.Layer {
	return r.job.plan.Layer(r.block.Linears[linear].Name)
}

// foldMethod is what candidates are quantized with: if the search is to be
// by the method, its draft.
func (r *blockRun) foldMethod() quant.Quantizer {
	if r.job.set.search != adadim.SearchMethod {
		return quant.RTN{Workers: r.job.set.workers}
	}
	return quant.Draft(r.job.set.method)
}

// least is the least relative error of a layer with weight w among its arms of
// the axes; infinite where one has no scales.
func (r *blockRun) least(ctx context.Context, linear int, w *tensor.Matrix, oc, ic bool, cal *quant.Calibration) (float64, error) {
	p := r.planOf(linear)
	q := adadim.Quantizer{
		Method: r.foldMethod(), Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod, Workers: r.job.set.workers,
	}
	for _, a := range p.Arms {
		if a.Axis == quant.OC && oc || a.Axis == quant.IC && ic {
			q.Arms = append(q.Arms, a)
		}
	}
	_, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, p.Scheme)
	if errors.Is(err, quant.ErrScaleRange) {
		return math.Inf(1), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.Name, err)
	}
	return d.Candidates[d.Chosen].Objective, nil
}

// scaled returns the calibration of a stage as it is with the folded scales.
func (r *blockRun) scaled(stage int, cal *quant.Calibration) *quant.Calibration {
	return r.scales.Calibration(stage, cal, adadim.ScaleCalibration)
}

// observeForFolding returns what the unquantized linears of the block see
// behind the quantized blocks, for those stages that folding needs. It takes a
// part of the text: what is chosen is one exponent for a stage, by errors that
// differ by a quarter or more.
func (r *blockRun) observeForFolding(ctx context.Context) ([]*quant.Calibration, error) {
	const least = 4096 // tokens, and twice the width of the inputs
	stages := r.block.Stages
	collectors := make([]*quant.Collector, len(stages))
	tokens := least
	want := func(stage int) {
		tokens = max(tokens, 2*stages[stage].Width)
		if collectors[stage] == nil {
			collectors[stage] = quant.NewCollector(stages[stage].Width)
		}
	}
	for stage, folds := range r.job.plan.Folds[r.block.Index] {
		if !folds {
			continue
		}
		want(stage)
		if l := stages[stage].Fold.Before; l >= 0 {
			want(r.block.Linears[l].Stage)
		}
	}
	err := r.walk.Pass(ctx, r.block, r.quantized.Sample(tokens), false, func(stage int, f *program.Frame) error {
		if c := collectors[stage]; c != nil {
			r.observe(c, f.Input(&stages[stage]))
		}
		return nil
	})
	return calibrations(collectors), err
}
