package curvature

import (
	"context"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// damping is what is added to H, in means of its diagonal, for leverages.
const damping = 0.01

// leverages are those of the tokens of a block's stages: xᵀ H⁻¹ x, where H is the sum of
// x xᵀ over all tokens, how much of H a token is.
type leverages struct {
	factors map[int]*tensor.Matrix // of H, by stage
	batch   map[int]int            // by stage, whose leverages those are
	values  map[int][]float64
}

// newLeverages takes what enters a block through it for the stages that are wanted. Experts
// have none: of most of their stages a text has few tokens.
func newLeverages(ctx context.Context, w *walk.Walk, b *program.Block, r *walk.Residual, wants func(name string) bool) (*leverages, error) {
	h := map[int]*tensor.Matrix{}
	for i, s := range b.Stages {
		for _, l := range s.Linears {
			if s.Expert < 0 && wants(b.Linears[l].Name) && h[i] == nil {
				h[i] = tensor.New(s.Width, s.Width)
			}
		}
	}
	l := &leverages{factors: h, batch: map[int]int{}, values: map[int][]float64{}}
	if len(h) == 0 {
		return l, nil
	}
	err := w.Pass(ctx, b, r, false, func(stage int, f *program.Frame) error {
		if h[stage] != nil {
			tensor.SyrkT(f.Input(&b.Stages[stage]), h[stage], w.Runner.Workers())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, m := range h {
		if h[i] = factor(m, w.Runner.Workers()); h[i] == nil {
			delete(h, i) // no input at all
		}
	}
	return l, nil
}

// factor is that of h with damping, in its memory, or nil if there is none.
func factor(h *tensor.Matrix, workers int) *tensor.Matrix {
	var mean float64
	for j := range h.Rows {
		mean += float64(h.At(j, j)) / float64(h.Rows)
	}
	for j := range h.Rows {
		h.Row(j)[j] += float32(damping * mean)
	}
	if tensor.Cholesky(h, workers) >= 0 {
		return nil
	}
	return h
}

// of are the leverages of a batch of a stage's inputs x [tokens, in], whole windows, times
// tokens over inputs, or nil for those of experts. They are kept for the other layers that
// read the stage.
func (l *leverages) of(w *walk.Walk, stage, batch int, x *tensor.Matrix) []float64 {
	f := l.factors[stage]
	if f == nil {
		return nil
	}
	if v := l.values[stage]; v != nil && l.batch[stage] == batch {
		return v
	}
	v := make([]float64, x.Rows)
	t := w.Runner.Matrix(x.Cols, w.SeqLen)
	defer w.Runner.Release(t)
	for r0 := 0; r0 < x.Rows; r0 += w.SeqLen {
		kernel.Transpose(t.Data, t.Stride, x.Data[r0*x.Stride:], x.Stride, w.SeqLen, x.Cols, w.Runner.Workers())
		tensor.SolveLower(false, f, t, w.Runner.Workers())
		for j := range t.Rows {
			for i, y := range t.Row(j) {
				v[r0+i] += float64(y) * float64(y)
			}
		}
	}
	l.values[stage], l.batch[stage] = v, batch
	return v
}
