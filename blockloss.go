package lowbit

import (
	"context"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// reference is what adadim.ObjectiveBlock compares with, by batch: a stage as
// the text reaches it, and what the unquantized block adds to the residual
// stream for it.
type reference struct {
	frames  []*program.Frame
	effects []*tensor.Matrix
}

// refer records the reference of a batch that is at a stage. Linears that add
// to the stream themselves need none.
func (r *blockRun) refer(stage int, f *program.Frame) {
	if r.job.set.objective != adadim.ObjectiveBlock || r.block.Stages[stage].Residual {
		return
	}
	ref := r.refs[stage]
	if ref == nil {
		ref = &reference{}
		r.refs[stage] = ref
	}
	ref.frames = append(ref.frames, r.walk.Runner.Keep(f, stage))
	ref.effects = append(ref.effects, r.walk.Runner.Effect(r.block, f, stage))
}

// blockLoss returns the loss of adadim.ObjectiveBlock for a layer of the
// block: that of what it adds to the residual stream, through what lies between:
// the attention's output for q, k and v, the MLP's for gate and up, the layer's
// own for o and down. The other layers of the block are unquantized, as in the
// public code. The layer's weight w, cal and what the loss is asked for have
// folded scales. It is nil for other objectives.
func (r *blockRun) blockLoss(linear int, w *tensor.Matrix, cal *quant.Calibration) func(context.Context, *tensor.Matrix) (float64, error) {
	if r.job.set.objective != adadim.ObjectiveBlock || cal == nil {
		return nil
	}
	stage := r.block.Linears[linear].Stage
	if r.block.Stages[stage].Residual {
		return func(_ context.Context, approx *tensor.Matrix) (float64, error) {
			return quant.Loss(w, approx, cal.H, r.job.set.workers), nil
		}
	}
	ref := r.refs[stage]
	return func(ctx context.Context, approx *tensor.Matrix) (float64, error) {
		b := r.block.Clone()
		b.Linear(linear).Weight = r.scales.Restore(linear, approx)
		var loss float64
		for i, f := range ref.frames {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			loss += squared(r.walk.Runner.EffectAlone(b, f, stage), ref.effects[i])
		}
		return loss, nil
	}
}

// squared returns ‖a-b‖².
func squared(a, b *tensor.Matrix) float64 {
	var sum float64
	for i := range a.Rows {
		y := b.Row(i)
		for j, v := range a.Row(i) {
			d := float64(v) - float64(y[j])
			sum += d * d
		}
	}
	return sum
}
