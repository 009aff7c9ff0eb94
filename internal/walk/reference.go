package walk

import (
	"context"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/tensor"
)

// Reference is a stage as the text reaches it, and what a block adds to the
// residual stream for it: what other weights of the stage are compared with.
type Reference struct {
	w       *Walk
	stage   int
	frames  []*kept
	effects []*streams.Piece
}

// NewReference returns the empty reference of a stage.
func (w *Walk) NewReference(stage int) *Reference { return &Reference{w: w, stage: stage} }

// Add records a batch that is at the stage of a block.
func (r *Reference) Add(b *program.Block, f *program.Frame) error {
	k, err := r.w.keep(f, r.stage)
	if err != nil {
		return err
	}
	r.frames = append(r.frames, k)
	e, err := r.w.Store.Put(r.w.Runner.Effect(b, f, r.stage))
	r.effects = append(r.effects, e)
	return err
}

// Loss is the squared difference between what a block with other weights adds
// and what was added.
func (r *Reference) Loss(ctx context.Context, b *program.Block) (float64, error) {
	var loss float64
	for i, k := range r.frames {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		want, err := r.w.Store.Load(r.effects[i])
		if err != nil {
			return 0, err
		}
		err = r.w.with(k, func(f *program.Frame) {
			got := r.w.Runner.EffectAlone(b, f, r.stage)
			loss += squared(got, want)
			r.w.Runner.Release(got)
		})
		if err == nil {
			err = r.w.Store.Done(r.effects[i], want, false)
		}
		if err != nil {
			return 0, err
		}
	}
	return loss, nil
}

// Drop gives up what is kept.
func (r *Reference) Drop() {
	for i, k := range r.frames {
		for _, piece := range k.parts {
			r.w.Store.Drop(piece)
		}
		r.w.Store.Drop(r.effects[i])
	}
	r.frames, r.effects = nil, nil
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

// Difference returns x - y.
func Difference(x, y *tensor.Matrix) *tensor.Matrix {
	d := x.Clone()
	for i := range d.Rows {
		row := d.Row(i)
		for j, v := range y.Row(i) {
			row[j] -= v
		}
	}
	return d
}

// kept is a frame that stays at a stage while the text goes on.
type kept struct {
	frame *program.Frame
	shape *tensor.Matrix // in the place of a stream that does not matter, or nil
	parts map[program.Reg]*streams.Piece
}

// keep keeps a copy of a frame, as Runner.Keep makes it, in the Store.
func (w *Walk) keep(f *program.Frame, stage int) (*kept, error) {
	k := &kept{frame: w.Runner.Keep(f, stage), parts: map[program.Reg]*streams.Piece{}}
	var err error
	k.frame.Leave(func(g program.Reg, m *tensor.Matrix, _ bool) {
		switch {
		case err != nil:
		case g == program.Stream && m.Data == nil:
			k.shape = m
		default:
			k.parts[g], err = w.Store.Put(m)
		}
	})
	return k, err
}

// with calls fn with a frame that is kept, which must not change it.
func (w *Walk) with(k *kept, fn func(f *program.Frame)) error {
	if k.shape != nil {
		k.frame.Enter(program.Stream, k.shape)
	}
	for g, piece := range k.parts {
		m, err := w.Store.Load(piece)
		if err != nil {
			return err
		}
		k.frame.Enter(g, m)
	}
	fn(k.frame)
	var err error
	k.frame.Leave(func(g program.Reg, m *tensor.Matrix, _ bool) {
		if piece := k.parts[g]; piece != nil && err == nil {
			err = w.Store.Done(piece, m, false)
		}
	})
	return err
}
