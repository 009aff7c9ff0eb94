package lowbit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/allocation"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Budget asks for as many bits in each layer as pay there. What candidates cost each
// layer is measured on the calibration text by the curvature of the model's loss before
// anything is quantized; then the mixture is taken that is expected to lose least. Layers
// that one of Rules is about take no part. See package allocation.
type Budget = allocation.Budget

// Allocation is how bits were shared out.
type Allocation = allocation.Outcome

// allocate finds the bits of each layer, and plans anew with them.
func (j *job) allocate(ctx context.Context, o *Options) (err error) {
	if !j.set.budget {
		return nil
	}
	defer phases.Of(ctx).Whole(phases.Allocation)()
	rules := j.set.rules
	w := &allocation.Work{
		Budget: o.Budget, Format: j.set.format, Scheme: j.set.scheme, Group: o.GroupSize != 0,
		Plan: func(more []Rule, given map[string]Rule) (*fitting.Plan, error) {
			j.set.rules, j.set.given = slices.Concat(rules, more), given
			err := j.planLayers()
			return j.plan, err
		},
		Never: func(err error) bool { return errors.Is(err, ErrTarget) || errors.Is(err, ErrOptions) },
		Size: func() (int64, error) {
			w, err := j.writerOptions(ctx, o)
			if err != nil {
				return 0, err
			}
			space, err := checkpoint.SpaceFor(w)
			if err != nil || space == nil {
				return 0, err
			}
			return space.Output, nil
		},
		Walk:    func() (*walk.Walk, int64, func(), error) { return j.measuringWalk(o.Memory) },
		Windows: j.text.windows,
		Step: func(what string, done, total int) {
			j.event(Event{Kind: EventProgress, Done: done, Total: total, Message: what})
		},
		Measurer: allocation.Measurer{
			Method: quant.Draft(j.set.method), Workers: j.set.workers,
			Weight: func(name string) (*tensor.Matrix, error) { return j.layers.Matrix(name + layout.WeightSuffix) },
		},
	}
	if j.allocated, err = w.Do(ctx); err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	return j.splitLayers()
}

// planMeasuring divides memory for measuring what layers cost.
func (j *job) planMeasuring(limit int64) (*MemoryPlan, error) {
	method := quant.Draft(j.set.method)
	p, err := j.calibration().Weighing(func(out, in int) int64 { return quant.Memory(method, out, in) }, walk.Reversible(j.model) == nil).Plan(cmp.Or(limit, memory.Default()))
	if err != nil {
		return nil, fmt.Errorf("%s: to share out bits: %w", j.path, err)
	}
	return p, nil
}

// measuringWalk is the walk that what layers cost is measured on.
func (j *job) measuringWalk(limit int64) (w *walk.Walk, statistics int64, done func(), err error) {
	p, err := j.planMeasuring(limit)
	if err != nil {
		return nil, 0, nil, err
	}
	release := p.Hold()
	var spill *checkpoint.ScratchFile
	w = j.walk(p, func() (f streams.File, err error) {
		spill, err = checkpoint.Scratch(filepath.Dir(j.output))
		return spill, err
	})
	return w, p.Statistics, func() { _ = spill.Close(); release() }, nil
}
