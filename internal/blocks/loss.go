package blocks

import (
	"context"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// refer records the reference that the loss of the block compares with, of a batch
// that is at a stage. Linears that add to the stream themselves need none.
func (r *run) refer(stage int, f *program.Frame) error {
	if !r.BlockLoss || r.block.Stages[stage].Residual {
		return nil
	}
	if r.refs[stage] == nil {
		r.refs[stage] = r.walk.NewReference(stage)
	}
	return r.refs[stage].Add(r.block, f)
}

// forget drops the reference of a stage.
func (r *run) forget(stage int) {
	if ref := r.refs[stage]; ref != nil {
		ref.Drop()
	}
}

// blockLoss returns the loss of adadim.ObjectiveBlock for a layer of the
// block: that of what it adds to the residual stream, through what lies between:
// the attention's output for q, k and v, the MLP's for gate and up, the layer's
// own for o and down. The other layers of the block are unquantized, as in the
// public code. The layer's weight w, cal and what the loss is asked for have
// folded scales. It is nil for other objectives.
func (r *run) blockLoss(linear int, w *tensor.Matrix, cal *quant.Calibration) func(context.Context, *tensor.Matrix) (float64, error) {
	if !r.BlockLoss || cal == nil {
		return nil
	}
	stage := r.block.Linears[linear].Stage
	if r.block.Stages[stage].Residual {
		return func(_ context.Context, approx *tensor.Matrix) (float64, error) {
			return quant.Loss(w, approx, cal.H, r.Workers), nil
		}
	}
	ref := r.refs[stage]
	return func(ctx context.Context, approx *tensor.Matrix) (float64, error) {
		b := r.block.Clone()
		b.Linear(linear).Weight = r.scales.Restore(linear, approx)
		return ref.Loss(ctx, b)
	}
}
