package lowbit

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/curvature"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
)

// checkCurvature refuses curvature for models through which no gradient goes back.
func (j *job) checkCurvature() error {
	if j.set.curvature != CurvatureOn {
		return nil
	}
	if j.model == nil {
		return fmt.Errorf("%w: curvature needs a model that can be run: %w", ErrOptions, j.refuse)
	}
	if err := walk.Reversible(j.model); err != nil {
		return fmt.Errorf("%s: %w: curvature: %w", j.path, ErrOptions, err)
	}
	return nil
}

// collectCurvature passes the text through the unquantized model and back, for the
// layers that are still to be quantized; nil without curvature.
func (j *job) collectCurvature(ctx context.Context, w *walk.Walk) (*curvature.Moments, error) {
	if j.set.curvature != CurvatureOn {
		return nil, nil
	}
	return curvature.Collect(ctx, w, j.text.windows, j.pending, func(done, total int) {
		j.event(Event{Kind: EventProgress, Done: done, Total: total, Message: "curvature"})
	})
}

// curved is the statistics of a linear's inputs with the curvature at its outputs, as it
// is with what is folded into its rows.
func (r *blockRun) curved(linear int, cal *quant.Calibration) (*quant.Calibration, error) {
	if r.moments == nil || cal == nil {
		return cal, nil
	}
	o, err := r.moments.Of(r.block.Linears[linear].Name)
	if err != nil || o == nil {
		return cal, err
	}
	if rows := r.scales.Output(linear); rows != nil {
		back := make([]float32, len(rows))
		for i, f := range rows {
			back[i] = 1 / f
		}
		o = adadim.ScaleOutput(o, back)
	}
	return cal.WithOutput(o), nil
}
