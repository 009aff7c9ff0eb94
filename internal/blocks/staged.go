package blocks

import (
	"context"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/held"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// runStaged quantizes the layers of a block in the order in which they
// compute, each group on what the quantized layers before it make of the
// text.
func (r *run) runStaged(ctx context.Context) error {
	if r.folds() {
		// Also where all is done: what was quantized is scaled back.
		done, err := r.refoldScales()
		if err == nil && !done {
			var cals []*quant.Calibration
			if cals, err = r.observeForFolding(ctx); err == nil {
				err = r.foldScales(ctx, cals)
			} else if errors.Is(err, errChosen) {
				_, err = r.refoldScales()
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
	if err := r.walk.Stages(ctx, both, &stagedVisit{run: r}, r.last); err != nil {
		return err
	}
	return r.dropBatches()
}

// stagedVisit collects the statistics of one stage after the other, from the
// quantized stream and, beside it, the unquantized one.
type stagedVisit struct {
	run   *run
	tally *tally // nil for a stage of which nothing is to be quantized
	err   error
}

// Wants implements walk.Visitor.
func (v *stagedVisit) Wants(stage int) bool {
	if v.err = v.run.look(v.run.block.Program); v.err != nil || !v.run.pending(stage) {
		return false
	}
	v.tally = v.run.tally(stage, v.paired(stage))
	return true
}

// paired tells whether the two streams are compared at a stage. The tokens of
// an expert differ between them.
func (v *stagedVisit) paired(stage int) bool {
	return v.run.full != nil && v.run.block.Stages[stage].Expert < 0
}

// Observe implements walk.Visitor.
func (v *stagedVisit) Observe(stage int, frames []*program.Frame) error {
	r, s := v.run, &v.run.block.Stages[stage]
	defer r.clock.Enter(phases.Statistics)()
	if err := r.refer(stage, frames[0]); err != nil {
		return err
	}
	r.watch(stage, frames[0])
	if !v.paired(stage) {
		r.observe(v.tally.collector(), stage, frames[0])
		return v.tally.seen(frames[0].X.Rows)
	}
	x := frames[0].Input(s)
	var lack *tensor.Matrix
	if s.Residual {
		lack = walk.Difference(frames[1].X, frames[0].X)
	}
	v.tally.collector().AddPair(frames[1].Input(s).Clone(), x, lack, r.Workers)
	return v.tally.seen(frames[0].X.Rows)
}

// Settle implements walk.Visitor.
func (v *stagedVisit) Settle(ctx context.Context, stage int) error {
	r, t := v.run, v.tally
	v.tally = nil
	if v.err != nil {
		return v.err
	}
	var c *quant.Collector
	if t != nil {
		var err error
		if c, err = t.end(ctx, r.needs(stage)); err != nil {
			return err
		}
	}
	var cal *quant.Calibration
	var targets map[int]*tensor.Matrix
	if c != nil {
		r.walk.Runner.Forget()
		var err error
		if cal, targets, err = r.correct(stage, c, v.paired(stage)); err != nil {
			return err
		}
		r.shrink(stage, cal)
	}
	for _, i := range r.inOrder(r.block.Stages[stage].Linears) {
		if err := r.layer(ctx, i, cal, targets[i]); err != nil {
			return err
		}
	}
	r.forget(stage)
	if t == nil {
		return nil
	}
	return r.dropSums(r.block.Index, stage)
}

// correct returns the statistics of a stage, and where two streams are compared
// the corrected weights of the linears that read it.
func (r *run) correct(stage int, c *quant.Collector, paired bool) (*quant.Calibration, map[int]*tensor.Matrix, error) {
	defer r.clock.Enter(phases.Statistics)()
	s := &r.block.Stages[stage]
	memory.Collect(4 * int64(s.Width) * int64(s.Width))
	if err := r.keepSquares(stage, c); err != nil {
		return nil, nil, err
	}
	if !paired {
		return r.scaled(stage, c.Calibration()), nil, nil
	}
	var linears []int
	var weights []*tensor.Matrix
	for _, i := range s.Linears {
		if r.wants(r.block.Linears[i].Name) {
			w, err := held.Matrix(r.block.Linear(i))
			if err != nil {
				return nil, nil, err
			}
			linears = append(linears, i)
			weights = append(weights, r.scales.Weight(i, w))
		}
	}
	all, cal, err := r.layers.Correct(weights, c, func(cal *quant.Calibration) *quant.Calibration { return r.scaled(stage, cal) })
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
