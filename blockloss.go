package lowbit

import (
	"context"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// reference is what adadim.ObjectiveBlock compares with, for all tokens
// [tokens, hidden]: the inputs of the attention and of the MLP, and what the
// unquantized block adds to the residual stream for them. A nil reference
// records nothing.
type reference struct {
	attnIn, attnOut *tensor.Matrix
	mlpIn, mlpOut   *tensor.Matrix
}

func (r *blockRun) newReference() *reference {
	if r.set.objective != adadim.ObjectiveBlock {
		return nil
	}
	n, hidden := r.text.tokens(), r.cfg.Hidden
	return &reference{tensor.New(n, hidden), tensor.New(n, hidden), tensor.New(n, hidden), tensor.New(n, hidden)}
}

// attention records the input h of the attention and the stream x before it.
func (f *reference) attention(r0, r1 int, x, h *tensor.Matrix) {
	if f != nil {
		rows(f.attnIn, r0, r1).CopyFrom(h)
		rows(f.attnOut, r0, r1).CopyFrom(x)
	}
}

// attended records the stream x after the attention.
func (f *reference) attended(r0, r1 int, x *tensor.Matrix) {
	if f != nil {
		difference(rows(f.attnOut, r0, r1), x)
	}
}

// mlp and done do the same for the MLP.
func (f *reference) mlp(r0, r1 int, x, h *tensor.Matrix) {
	if f != nil {
		rows(f.mlpIn, r0, r1).CopyFrom(h)
		rows(f.mlpOut, r0, r1).CopyFrom(x)
	}
}

func (f *reference) done(r0, r1 int, x *tensor.Matrix) {
	if f != nil {
		difference(rows(f.mlpOut, r0, r1), x)
	}
}

// difference sets before to after - before.
func difference(before, after *tensor.Matrix) {
	for i := range before.Rows {
		a := after.Row(i)
		for j, v := range before.Row(i) {
			before.Data[i*before.Stride+j] = a[j] - v
		}
	}
}

// blockLoss returns the loss of adadim.ObjectiveBlock for a layer of the
// block: that of the attention's output for q, k and v, of the MLP's for
// gate and up, of the layer's own for o and down. The other layers of the
// block are unquantized, as in the public code. The layer's weight w, cal and
// what the loss is asked for have folded scales. It is nil for other objectives.
func (r *blockRun) blockLoss(role llama.Role, ref *reference, w *tensor.Matrix, cal *quant.Calibration) func(context.Context, *tensor.Matrix) (float64, error) {
	if ref == nil {
		return nil
	}
	return func(_ context.Context, approx *tensor.Matrix) (float64, error) {
		b := *r.block
		b.Linear(role).Weight = r.scales.Restore(role, approx)
		var loss float64
		switch role {
		case llama.O, llama.Down:
			return quant.Loss(w, approx, cal.H, r.set.workers), nil
		case llama.Q, llama.K, llama.V:
			err := r.eachBatch(func(r0, r1 int) error {
				a, y := tensor.New(r1-r0, r.cfg.QueryWidth()), tensor.New(r1-r0, r.cfg.Hidden)
				r.fwd.Attend(&b, a, rows(ref.attnIn, r0, r1), r.text.seqLen)
				r.fwd.AttnOutput(&b, y, a)
				loss += squared(y, rows(ref.attnOut, r0, r1))
				return nil
			})
			return loss, err
		}
		err := r.eachBatch(func(r0, r1 int) error {
			act, y := tensor.New(r1-r0, r.cfg.Intermediate), tensor.New(r1-r0, r.cfg.Hidden)
			r.fwd.MLPAct(&b, act, rows(ref.mlpIn, r0, r1))
			r.fwd.MLPOutput(&b, y, act)
			loss += squared(y, rows(ref.mlpOut, r0, r1))
			return nil
		})
		return loss, err
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
