package lowbit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// blockLayers are the layers of a job, for the walk through the blocks.
type blockLayers struct{ job *job }

// runBlocks quantizes block by block on what the text is there.
func (j *job) runBlocks(ctx context.Context) error {
	var spill *checkpoint.ScratchFile
	w := j.walk(j.memory, func() (f streams.File, err error) {
		spill, err = j.out.Scratch()
		return spill, err
	})
	defer func() { _ = spill.Close() }() // its content is needed no more
	var err error
	if j.set.method, err = quant.Surveyed(j.set.method, j.model.Hidden, func(above float32) ([]quant.InputSurvey, error) {
		return blocks.Survey(ctx, w, j.text.windows, above)
	}); err != nil {
		return err
	}
	full := j.set.inputs == InputsFull
	o := blocks.Options{
		Full: full, Paired: !full && j.set.correction > 0, BlockLoss: j.set.objective == adadim.ObjectiveBlock,
		Curvature: j.set.curvature == CurvatureOn, Shrink: j.set.preset.base().shrink, Pool: j.set.preset.base().shrink, RouteAll: j.text.routeAll, Squares: j.saveImportance != nil, Folds: j.plan.Folds,
		ScaleInput: adadim.ScaleCalibration, ScaleOutput: adadim.ScaleOutput,
		Statistics: j.memory.Statistics, Workers: j.set.workers, Keeper: j.out, Made: j.out.Weight, Team: j.teamwork(), Chunk: chunkTokens,
		Begin: func(block int) { j.event(Event{Kind: EventBlock, Block: block, Blocks: j.model.Layers}) },
		Curving: func(done, total int) {
			j.event(Event{Kind: EventProgress, Done: done, Total: total, Message: "curvature"})
		},
	}
	if j.half {
		o.Overflow = j.warnOverflow
	}
	return blocks.Run(ctx, w, j.text.windows, blockLayers{j}, o)
}

// walk is the way of the calibration text through the unquantized model, within a plan;
// open makes the file of what does not fit.
func (j *job) walk(p *MemoryPlan, open func() (streams.File, error)) *walk.Walk {
	runner := measure.Runner(j.model, j.src, j.set.bf16, j.set.workers)
	runner.Spare = p.Batch
	w := &walk.Walk{
		Model: j.model, Weights: j.src, Runner: runner, SeqLen: j.text.seqLen, Alone: p.Alone, Store: streams.New(runner, p.Share, open),
	}
	if p.ByExpert {
		w.Hold(p.Experts)
	}
	return w
}

// warnOverflow tells of activations that the engines of the format cannot compute.
func (j *job) warnOverflow(layer string, largest float32) {
	j.event(Event{Kind: EventWarning, Name: layer, Message: fmt.Sprintf(
		"activations reach %.3g here, and half floats, in which engines compute a model of format %s, end at %d: use format compressed-tensors with bfloat16 scales, lowbit or dense",
		largest, j.set.format.Name(), wire.MaxHalf)})
}

// checkReversible refuses what needs gradients for models through which none go back.
// Curvature that was not asked for is then done without.
func (j *job) checkReversible(asked Curvature) error {
	if j.set.curvature == CurvatureOn && asked == CurvatureDefault && j.model != nil {
		if err := walk.Reversible(j.model); err != nil {
			j.set.noCurvature(err.Error())
		}
	}
	what := "tuning"
	switch {
	case j.set.curvature == CurvatureOn:
		what = "curvature"
	case j.set.budget && j.model == nil:
		what = "a budget of bits"
	case j.set.tuning.What == TuneOff:
		return nil
	}
	if j.model == nil {
		return fmt.Errorf("%w: %s needs a model that can be run: %w", ErrOptions, what, j.refuse)
	}
	if err := walk.Reversible(j.model); err != nil {
		return fmt.Errorf("%s: %w: %s: %w", j.path, ErrOptions, what, err)
	}
	return nil
}

// Pending implements blocks.Layers.
func (b blockLayers) Pending(name string) bool {
	return !b.job.plan.Layer(name).Dense && !b.job.out.Done(name)
}

// Quantize implements blocks.Layers.
func (b blockLayers) Quantize(ctx context.Context, t blocks.Task) (*quant.Weight, error) {
	p := b.job.plan.Layer(t.Name)
	if !p.Dense && b.job.out.Done(t.Name) {
		return b.job.resumed(p)
	}
	return b.job.quantizeLayer(ctx, p, t)
}

// Settle implements blocks.Layers.
func (b blockLayers) Settle(name string) error {
	p := b.job.plan.Layer(name)
	if p.Dense {
		b.job.finish(b.job.reportOf(p), false)
		return nil
	}
	_, err := b.job.resumed(p)
	return err
}

// Correct implements blocks.Layers. Methods that look at both streams are shown all
// there is.
func (b blockLayers) Correct(weights []*tensor.Matrix, c *quant.Collector, scale func(*quant.Calibration) *quant.Calibration) ([]*tensor.Matrix, *quant.Calibration, error) {
	how, workers := gptq.Correction{Strength: b.job.set.correction}, b.job.set.workers
	if !quant.NeedsPairs(b.job.set.method) {
		return gptq.CorrectAll(weights, c, scale, how, workers)
	}
	cal := scale(c.Calibration())
	all := make([]*tensor.Matrix, len(weights))
	for k, w := range weights {
		var err error
		if all[k], err = gptq.Correct(w, cal, how, workers); err != nil {
			return nil, nil, err
		}
	}
	return all, cal, nil
}

// Folding implements blocks.Layers.
func (b blockLayers) Folding(block *program.Block) *fold.Search {
	layer := func(linear int) *fitting.Layer { return b.job.plan.Layer(block.Linears[linear].Name) }
	f := &fold.Search{
		Round: b.round, Calibration: adadim.ScaleCalibration, MakesUp: quant.NeedsCalibration(b.job.set.method),
		Least: func(ctx context.Context, linear int, w *tensor.Matrix, oc, ic bool, cal *quant.Calibration) (float64, error) {
			return b.job.least(ctx, layer(linear), w, oc, ic, cal)
		},
		Axes: func(linear int) (oc, ic bool) {
			for _, a := range layer(linear).Arms {
				oc, ic = oc || a.Axis == quant.OC, ic || a.Axis == quant.IC
			}
			return oc, ic
		},
	}
	for _, a := range b.job.set.arms {
		all := b.job.set.fold == FoldOn
		f.Input = f.Input || a.InputScale || all && a.Axis == quant.OC
		f.Row = f.Row || a.RowScale || all && a.Axis == quant.IC
	}
	f.Balance = b.job.set.search == adadim.SearchMethod // by RTN they seem worth more than they are
	return f
}

// Fold implements blocks.Layers.
func (b blockLayers) Fold(stored map[string][]float32, notes map[string]string) error {
	maps.Copy(b.job.folded, notes)
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if err := b.job.out.PutDense(name, stored[name]); err != nil {
			return err
		}
	}
	return nil
}

// Note implements blocks.Layers.
func (b blockLayers) Note(key string, data []byte) error { return b.job.out.Note(key, data) }

// Noted implements blocks.Layers.
func (b blockLayers) Noted(key string) ([]byte, bool) { return b.job.out.Noted(key) }

// round rounds to the type in which the source has a tensor.
func (b blockLayers) round(name string, v float32) float32 {
	t, _ := b.job.src.DType(name)
	return layout.Rounded(t, v)
}

// foldMethod is what candidates are quantized with: if the search is to be
// by the method, its draft.
func (j *job) foldMethod() quant.Quantizer {
	if j.set.search != adadim.SearchMethod {
		return quant.RTN{Workers: j.set.workers}
	}
	return quant.Draft(j.set.method)
}

// least is the least relative error of a layer with weight w among its arms of
// the axes; infinite where one has no scales.
func (j *job) least(ctx context.Context, p *fitting.Layer, w *tensor.Matrix, oc, ic bool, cal *quant.Calibration) (float64, error) {
	q := adadim.Quantizer{
		Method: j.foldMethod(), Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod, Workers: j.set.workers,
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
