package lowbit

import (
	"context"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/curvature"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// blockRun is the work on a model's blocks, one after another.
type blockRun struct {
	job  *job
	walk *walk.Walk

	// Residual streams of all calibration windows: full is that of the
	// unquantized model, quantized what the quantized layers so far make of it.
	// With InputsFull the latter is nil; with InputsQuantized the former, unless
	// the correction needs it.
	full, quantized *walk.Residual

	block *program.Block // unquantized
	qb    *program.Block // the same, quantized as far as it goes

	// scales are what is folded in the block. Both blocks above are without
	// them: layers are scaled when they are quantized, and back afterwards.
	scales *fold.Scales
	refs   []*walk.Reference // by stage, for adadim.ObjectiveBlock

	last    bool               // no block behind this one needs the text
	moments *curvature.Moments // at outputs of layers, nil without Curvature
}

func (j *job) runBlocks(ctx context.Context) error {
	runner := newRunner(j.model, j.src, j.set.bf16, j.set.workers)
	runner.Spare = j.memory.Batch
	var spill *checkpoint.ScratchFile
	store := streams.New(runner, j.memory.Share, func() (streams.File, error) {
		var err error
		spill, err = j.out.Scratch()
		return spill, err
	})
	defer func() { _ = spill.Close() }() // its content is needed no more
	r := &blockRun{job: j, walk: &walk.Walk{
		Model: j.model, Weights: j.src, Runner: runner, SeqLen: j.text.seqLen, Store: store, Alone: j.memory.Alone,
	}}
	var err error
	if r.moments, err = j.collectCurvature(ctx, r.walk); err != nil {
		return err
	}
	both := j.set.inputs != InputsFull && j.set.correction > 0
	n := 1
	if both {
		n = 2
	}
	x, err := r.walk.Start(ctx, j.text.windows, n)
	if err != nil {
		return err
	}
	if both || j.set.inputs == InputsFull {
		r.full = x[0]
	}
	if j.set.inputs != InputsFull {
		r.quantized = x[n-1]
	}
	return j.eachBlock(ctx, r)
}

// eachBlock works on the blocks that need the text, and ends what lies behind.
func (j *job) eachBlock(ctx context.Context, r *blockRun) error {
	n := j.blocksNeeded()
	err := r.walk.Blocks(ctx, n, func(b *program.Block) error {
		j.event(Event{Kind: EventBlock, Block: b.Index, Blocks: j.model.Layers})
		r.block, r.qb, r.scales, r.last = b, b.Clone(), nil, b.Index+1 == n
		r.refs = make([]*walk.Reference, len(b.Stages))
		memory.Collect(b.Bytes()) // the block before
		if j.set.inputs == InputsFull {
			return r.runFull(ctx)
		}
		return r.runStaged(ctx)
	})
	if err != nil {
		return err
	}
	// The rest stays dense or was quantized by an earlier run: nothing there
	// needs the text.
	for _, b := range j.model.Blocks[n:] {
		for _, l := range b.Linears {
			if err := j.settled(l.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// blocksNeeded is how many blocks the text goes through: up to the last one
// with a layer still to be quantized.
func (j *job) blocksNeeded() int {
	for i := len(j.model.Blocks) - 1; i >= 0; i-- {
		for _, l := range j.model.Blocks[i].Linears {
			if j.pending(l.Name) {
				return i + 1
			}
		}
	}
	return 0
}

// pending reports whether a layer is still to be quantized.
func (j *job) pending(name string) bool { return !j.plan.Layer(name).Dense && !j.out.Done(name) }

// pending reports whether any layer that reads a stage is still to be done.
func (r *blockRun) pending(stage int) bool {
	for _, i := range r.block.Stages[stage].Linears {
		if r.job.pending(r.block.Linears[i].Name) {
			return true
		}
	}
	return false
}

// folds reports whether any scale is folded in the block.
func (r *blockRun) folds() bool { return slices.Contains(r.job.plan.Folds[r.block.Index], true) }

// collector returns what observes a stage of the block.
func (r *blockRun) collector(stage int, paired bool) *quant.Collector {
	c := quant.NewCollector(r.block.Stages[stage].Width)
	if paired {
		c = quant.NewPairCollector(r.block.Stages[stage].Width)
	}
	c.BF16 = r.walk.Runner.BF16
	return c
}

// runFull observes the stages of the block, all in one pass of the unquantized
// stream if there is memory for their statistics, and quantizes its layers.
func (r *blockRun) runFull(ctx context.Context) error {
	pending := false
	for s := range r.block.Stages {
		pending = pending || r.pending(s)
	}
	folds := r.folds() && pending
	if folds {
		done, err := r.refoldScales()
		if err != nil {
			return err
		}
		folds = !done
	}
	groups := memory.Groups(r.block.Program, r.job.memory.Statistics)
	if folds {
		groups = memory.Groups(r.block.Program, 0)
	}
	for k, stages := range groups {
		if err := r.runGroup(ctx, stages, k+1 == len(groups) && !r.last, folds); err != nil {
			return err
		}
	}
	return nil
}

// runGroup observes stages of the block and quantizes their layers; keep says that
// the stream goes on to the next block.
func (r *blockRun) runGroup(ctx context.Context, stages []int, keep, folds bool) error {
	collectors := make([]*quant.Collector, len(r.block.Stages))
	for _, s := range stages {
		if folds || r.pending(s) {
			collectors[s] = r.collector(s, false)
		}
	}
	err := r.walk.Pass(ctx, r.block, r.full, keep, func(stage int, f *program.Frame) error {
		if c := collectors[stage]; c != nil {
			r.watch(stage, f)
			r.observe(c, f.Input(&r.block.Stages[stage]))
			return r.refer(stage, f)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.walk.Runner.Forget()
	cals := calibrations(collectors)
	if folds {
		if err := r.foldScales(ctx, cals); err != nil {
			return err
		}
	}
	for s, cal := range cals {
		cals[s] = r.scaled(s, cal)
	}
	for i, l := range r.block.Linears {
		if slices.Contains(stages, l.Stage) {
			if err := r.layer(ctx, i, cals[l.Stage], nil); err != nil {
				return err
			}
		}
	}
	for _, s := range stages {
		r.forget(s)
	}
	return nil
}

// observe adds inputs to the statistics; an expert may have none in a batch.
func (r *blockRun) observe(c *quant.Collector, x *tensor.Matrix) {
	if x.Rows > 0 {
		c.Add(x, r.job.set.workers)
	}
}

// watch warns, once, of a stage whose inputs half floats do not hold, if that is what
// engines will compute it in.
func (r *blockRun) watch(stage int, f *program.Frame) {
	for _, x := range []*tensor.Matrix{f.X, f.Input(&r.block.Stages[stage])} {
		for i := 0; r.job.half && i < x.Rows; i++ {
			lo, hi := kernel.MinMax(x.Row(i))
			if most := max(-lo, hi); most > wire.MaxHalf {
				r.job.half = false
				name := r.block.Linears[r.block.Stages[stage].Linears[0]].Name
				r.job.event(Event{Kind: EventWarning, Name: name, Message: fmt.Sprintf(
					"activations reach %.3g here, and half floats, in which engines compute a model of format %s, end at %d: use format compressed-tensors with bfloat16 scales, lowbit or dense",
					most, r.job.set.format.Name(), wire.MaxHalf)})
			}
		}
	}
}

func calibrations(collectors []*quant.Collector) []*quant.Calibration {
	cals := make([]*quant.Calibration, len(collectors))
	for s, c := range collectors {
		if c != nil {
			cals[s] = c.Calibration()
		}
	}
	return cals
}

// layer quantizes one linear, or what is to take its place (see gptq.Correct), and
// puts the result into the quantized block.
func (r *blockRun) layer(ctx context.Context, linear int, cal *quant.Calibration, target *tensor.Matrix) error {
	p := r.planOf(linear)
	w := r.scales.Weight(linear, r.block.Linear(linear).Weight)
	if target == nil {
		target = w
	}
	var q *quant.Weight
	var err error
	if !p.Dense && r.job.out.Done(p.Name) {
		q, err = r.job.resumed(p)
	} else if cal, err = r.curved(linear, cal); err == nil {
		q, err = r.job.quantizeLayer(ctx, p, w, adadim.Layer{Weight: target, Calibration: cal, BlockLoss: r.blockLoss(linear, w, cal)})
	}
	if err != nil || q == nil {
		return err
	}
	if r.job.set.inputs == InputsQuantized {
		r.qb.Linear(linear).Weight = r.scales.Restore(linear, q.Dequantize())
	}
	memory.Collect(4 * int64(p.In) * int64(p.In))
	return nil
}

// runStaged quantizes the layers of a block in the order in which they
// compute, each group on what the quantized layers before it make of the
// text.
func (r *blockRun) runStaged(ctx context.Context) error {
	if r.folds() {
		// Also where all is done: what was quantized is scaled back.
		done, err := r.refoldScales()
		if err == nil && !done {
			var cals []*quant.Calibration
			if cals, err = r.observeForFolding(ctx); err == nil {
				err = r.foldScales(ctx, cals)
			}
		}
		if err != nil {
			return err
		}
	}
	both := []walk.Stream{{Block: r.qb, X: r.quantized}}
	if r.full != nil {
		both = append(both, walk.Stream{Block: r.block, X: r.full})
	}
	return r.walk.Stages(ctx, both, &stagedVisit{run: r}, r.last)
}

// stagedVisit collects the statistics of one stage after the other, from the
// quantized stream and, beside it, the unquantized one.
type stagedVisit struct {
	run       *blockRun
	collector *quant.Collector
}

// Wants implements walk.Visitor.
func (v *stagedVisit) Wants(stage int) bool { return v.run.pending(stage) }

// paired tells whether the two streams are compared at a stage. The tokens of
// an expert differ between them.
func (v *stagedVisit) paired(stage int) bool {
	return v.run.full != nil && v.run.block.Stages[stage].Expert < 0
}

// Observe implements walk.Visitor.
func (v *stagedVisit) Observe(stage int, frames []*program.Frame) error {
	r, s := v.run, &v.run.block.Stages[stage]
	if v.collector == nil {
		v.collector = r.collector(stage, v.paired(stage))
	}
	if err := r.refer(stage, frames[0]); err != nil {
		return err
	}
	r.watch(stage, frames[0])
	x := frames[0].Input(s)
	if !v.paired(stage) {
		r.observe(v.collector, x)
		return nil
	}
	var lack *tensor.Matrix
	if s.Residual {
		lack = walk.Difference(frames[1].X, frames[0].X)
	}
	v.collector.AddPair(frames[1].Input(s).Clone(), x, lack, r.job.set.workers)
	return nil
}

// Settle implements walk.Visitor.
func (v *stagedVisit) Settle(ctx context.Context, stage int) error {
	r, c := v.run, v.collector
	v.collector = nil
	var cal *quant.Calibration
	var targets map[int]*tensor.Matrix
	if c != nil {
		r.walk.Runner.Forget()
		var err error
		if cal, targets, err = r.correct(stage, c, v.paired(stage)); err != nil {
			return err
		}
	}
	for _, i := range r.block.Stages[stage].Linears {
		if err := r.layer(ctx, i, cal, targets[i]); err != nil {
			return err
		}
	}
	r.forget(stage)
	return nil
}

// correct returns the statistics of a stage, and where two streams are compared
// the corrected weights of the linears that read it.
func (r *blockRun) correct(stage int, c *quant.Collector, paired bool) (*quant.Calibration, map[int]*tensor.Matrix, error) {
	s := &r.block.Stages[stage]
	memory.Collect(4 * int64(s.Width) * int64(s.Width))
	if !paired {
		return r.scaled(stage, c.Calibration()), nil, nil
	}
	var linears []int
	var weights []*tensor.Matrix
	for _, i := range s.Linears {
		if r.job.pending(r.block.Linears[i].Name) {
			linears = append(linears, i)
			weights = append(weights, r.scales.Weight(i, r.block.Linear(i).Weight))
		}
	}
	all, cal, err := r.correctAll(stage, weights, c)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r.block.Linears[s.Linears[0]].Name, err)
	}
	targets := map[int]*tensor.Matrix{}
	for k, i := range linears {
		targets[i] = all[k]
	}
	memory.Collect(4 * int64(s.Width) * int64(s.Width))
	return cal, targets, nil
}

// correctAll corrects weights of linears that read a stage. Methods that look at
// both streams are shown all there is.
func (r *blockRun) correctAll(stage int, weights []*tensor.Matrix, c *quant.Collector) ([]*tensor.Matrix, *quant.Calibration, error) {
	scale := func(cal *quant.Calibration) *quant.Calibration { return r.scaled(stage, cal) }
	how := gptq.Correction{Strength: r.job.set.correction}
	if !quant.NeedsPairs(r.job.set.method) {
		return gptq.CorrectAll(weights, c, scale, how, r.job.set.workers)
	}
	cal := scale(c.Calibration())
	all := make([]*tensor.Matrix, len(weights))
	for k, w := range weights {
		var err error
		if all[k], err = gptq.Correct(w, cal, how, r.job.set.workers); err != nil {
			return nil, nil, err
		}
	}
	return all, cal, nil
}
