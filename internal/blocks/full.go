package blocks

import (
	"context"
	"errors"
	"slices"

	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
)

// runFull observes the stages of the block, all in one pass of the unquantized
// stream if there is memory for their statistics, and quantizes its layers.
func (r *run) runFull(ctx context.Context) error {
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
	groups := memory.Groups(r.block.Program, r.Statistics)
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
func (r *run) runGroup(ctx context.Context, stages []int, keep, folds bool) error {
	cals, err := r.statistics(ctx, stages, keep, folds)
	if err != nil {
		return err
	}
	if folds {
		if err := r.foldScales(ctx, cals); err != nil {
			return err
		}
	}
	for s, cal := range cals {
		cals[s] = r.scaled(s, cal)
		r.shrink(s, cals[s])
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

// statistics are those of stages of the block, of a pass or what other runs have found.
func (r *run) statistics(ctx context.Context, stages []int, keep, folds bool) ([]*quant.Calibration, error) {
	if r.alike.all {
		defer r.clock.Enter(phases.Reading)()
		cals := make([]*quant.Calibration, len(r.block.Stages))
		for _, s := range stages {
			if folds || r.pending(s) {
				var err error
				if cals[s], err = r.alike.of(r.block.Index, s); err != nil {
					return nil, err
				}
			}
		}
		return cals, nil
	}
	tallies := make([]*tally, len(r.block.Stages))
	for _, s := range stages {
		if folds || r.pending(s) {
			tallies[s] = r.tally(s, false)
		}
	}
	err := r.walk.Pass(ctx, r.block, r.full, keep, func(stage int, f *program.Frame) error {
		t := tallies[stage]
		if t == nil {
			return nil
		}
		defer r.clock.Enter(phases.Statistics)()
		r.watch(stage, f)
		r.observe(t.collector(), stage, f)
		return errors.Join(t.seen(f.X.Rows), r.refer(stage, f))
	})
	if err != nil {
		return nil, err
	}
	r.walk.Runner.Forget()
	collectors := make([]*quant.Collector, len(tallies))
	for s, t := range tallies {
		if t == nil {
			continue
		}
		if collectors[s], err = t.end(ctx, folds || r.needs(s)); err != nil {
			return nil, err
		}
		if c := collectors[s]; c != nil {
			if err := r.keepSquares(s, c); err != nil {
				return nil, err
			}
		}
	}
	defer r.clock.Enter(phases.Statistics)()
	cals := calibrations(collectors)
	for s, cal := range cals {
		r.alike.keep(r.block.Index, s, cal)
	}
	return cals, nil
}
