package walk

import (
	"cmp"
	"context"

	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/tensor"
)

// Residual is the residual stream [tokens, hidden] of a text between two blocks,
// in batches of whole windows, kept in the Store of a Walk.
type Residual struct{ batches []*streams.Piece }

// Start returns n residual streams of windows, SeqLen ids each, before the first
// block.
func (w *Walk) Start(ctx context.Context, windows [][]int32, n int) ([]*Residual, error) {
	defer phases.Of(ctx).Enter(phases.Forward)()
	e, err := w.Model.OpenEmbedding(w.Weights)
	if err != nil {
		return nil, err
	}
	all := make([]*Residual, n)
	for k := range all {
		all[k] = &Residual{}
	}
	step := program.Batch(w.SeqLen) / w.SeqLen
	for i := 0; i < len(windows); i += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := windows[i:min(i+step, len(windows))]
		x := w.Runner.Matrix(len(part)*w.SeqLen, w.Model.Hidden)
		if err := w.embed(x, e, part); err != nil {
			return nil, err
		}
		for k, r := range all {
			own := x // of the last; the Store takes it over
			if k+1 < n {
				own = w.Runner.Matrix(x.Rows, x.Cols)
				own.CopyFrom(x)
			}
			p, err := w.Store.Put(own)
			if err != nil {
				return nil, err
			}
			r.batches = append(r.batches, p)
		}
	}
	return all, nil
}

// Sample returns the part of a stream that has at least this many tokens, in
// whole batches from all over the text.
func (r *Residual) Sample(tokens int) *Residual {
	all := 0
	for _, p := range r.batches {
		all += p.Rows()
	}
	part := &Residual{}
	for _, i := range Sampled(len(r.batches), all, tokens) {
		part.batches = append(part.batches, r.batches[i])
	}
	return part
}

// Sampled are the batches, of n with so many tokens in all, that Sample takes.
func Sampled(n, all, tokens int) []int {
	want := n
	if all > tokens {
		want = (tokens*n + all - 1) / all
	}
	list := make([]int, want)
	for i := range list {
		list[i] = i * n / want
	}
	return list
}

// Batch returns a copy of a batch of a stream, [tokens, hidden].
func (w *Walk) Batch(r *Residual, i int) (*tensor.Matrix, error) {
	x, err := w.Store.Load(r.batches[i])
	if err != nil {
		return nil, err
	}
	return x.Clone(), w.Store.Done(r.batches[i], x, false)
}

// Add adds a batch behind a stream, which takes it over.
func (w *Walk) Add(r *Residual, x *tensor.Matrix) error {
	p, err := w.Store.Put(x)
	if err == nil {
		r.batches = append(r.batches, p)
	}
	return err
}

// Copy returns a stream of its own that is like r.
func (w *Walk) Copy(r *Residual) (*Residual, error) {
	c := &Residual{}
	for i := range r.batches {
		x, err := w.Batch(r, i)
		if err == nil {
			err = w.Add(c, x)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// Pass takes a stream through a block. observe, if not nil, sees every stage,
// batch by batch. Without keep the stream stays as it is, and goes only as far as
// there is something to observe.
func (w *Walk) Pass(ctx context.Context, b *program.Block, r *Residual, keep bool, observe program.Observer) error {
	defer phases.Of(ctx).Enter(phases.Forward)()
	for _, p := range r.batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		x, err := w.Store.Load(p)
		if err != nil {
			return err
		}
		on := x
		if !keep {
			on = w.Runner.Matrix(x.Rows, x.Cols)
			on.CopyFrom(x)
			if err := w.Store.Done(p, x, false); err != nil {
				return err
			}
		}
		if !keep {
			err = w.Runner.Observe(b, on, w.SeqLen, observe)
			w.Runner.Release(on)
		} else if err = w.Runner.Forward(b, on, w.SeqLen, observe); err == nil {
			err = w.Store.Done(p, on, true)
		}
		if err = cmp.Or(err, w.Held.Err()); err != nil {
			return err
		}
	}
	return nil
}

// Final shows what leaves the last block, window after window: x [SeqLen, hidden], valid
// only during the call.
func (w *Walk) Final(ctx context.Context, windows [][]int32, fn func(window int, x *tensor.Matrix) error) error {
	all, err := w.Start(ctx, windows, 1)
	if err != nil {
		return err
	}
	defer w.Drop(all[0])
	if err := w.Blocks(ctx, w.Model.Layers, func(b *program.Block) error { return w.Pass(ctx, b, all[0], true, nil) }); err != nil {
		return err
	}
	return w.Show(all[0], fn)
}

// Show shows a stream as Final does.
func (w *Walk) Show(r *Residual, fn func(window int, x *tensor.Matrix) error) error {
	window := 0
	for _, p := range r.batches {
		x, err := w.Store.Load(p)
		if err != nil {
			return err
		}
		for r0 := 0; r0 < x.Rows; r0 += w.SeqLen {
			if err := fn(window, Rows(x, r0, r0+w.SeqLen)); err != nil {
				return err
			}
			window++
		}
		if err := w.Store.Done(p, x, false); err != nil {
			return err
		}
	}
	return nil
}

// Stream is a residual stream and the block it goes through.
type Stream struct {
	Block *program.Block
	X     *Residual
}

// Visitor works on a block stage by stage.
type Visitor interface {
	// Wants reports whether the visitor is to be shown a stage.
	Wants(stage int) bool
	// Observe shows a stage of a batch, one frame for each stream.
	Observe(stage int, frames []*program.Frame) error
	// Settle ends a stage once all batches were shown: weights of the linears
	// that read it may change now, and those before it no longer.
	Settle(ctx context.Context, stage int) error
}

// batch is what a Store keeps of a batch on its way through a block.
type batch struct {
	frame *program.Frame // nil before the first stage
	parts map[program.Reg]*streams.Piece
}

// Stages takes streams through a block side by side, all batches of a stage
// before the next. What has to be kept of a batch between stages is kept in the
// Store for all tokens. If the block is the last one they stay in front of what
// comes after its last stage: nothing wants it, and they are not to be used again.
func (w *Walk) Stages(ctx context.Context, all []Stream, v Visitor, last bool) error {
	batches := make([][]*batch, len(all[0].X.batches))
	for i := range batches {
		for _, s := range all {
			batches[i] = append(batches[i], &batch{parts: map[program.Reg]*streams.Piece{program.Stream: s.X.batches[i]}})
		}
	}
	// each goes to a stage, or behind the last, with all streams of a batch.
	each := func(fn func(frames []*program.Frame) error) error {
		defer phases.Of(ctx).Enter(phases.Forward)()
		for _, b := range batches {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := w.visit(all, b, fn); err != nil {
				return err
			}
		}
		return nil
	}
	p := all[0].Block.Program
	for stage := range p.Stages {
		if v.Wants(stage) {
			if err := each(func(frames []*program.Frame) error { return w.show(stage, all, frames, v) }); err != nil {
				return err
			}
		}
		if err := v.Settle(ctx, stage); err != nil {
			return err
		}
	}
	if last {
		return nil
	}
	return each(func(frames []*program.Frame) error {
		for k, f := range frames {
			w.Runner.Finish(all[k].Block, f)
		}
		return nil
	})
}

// visit calls fn with the frames of a batch as they were left.
func (w *Walk) visit(all []Stream, batches []*batch, fn func(frames []*program.Frame) error) error {
	frames := make([]*program.Frame, len(batches))
	for k, b := range batches {
		var err error
		if frames[k], err = w.enter(b, all[k].Block.Program); err != nil {
			return err
		}
	}
	if err := cmp.Or(fn(frames), w.Held.Err()); err != nil {
		return err
	}
	for _, b := range batches {
		if err := w.leave(b); err != nil {
			return err
		}
	}
	return nil
}

// enter brings what was kept of a batch back into its frame.
func (w *Walk) enter(b *batch, p *program.Program) (*program.Frame, error) {
	for g, piece := range b.parts {
		m, err := w.Store.Load(piece)
		if err != nil {
			return nil, err
		}
		if b.frame == nil {
			b.frame = p.NewFrame(m, w.SeqLen)
		}
		b.frame.Enter(g, m)
	}
	return b.frame, nil
}

// leave keeps what is in the frame of a batch.
func (w *Walk) leave(b *batch) error {
	type content struct {
		g       program.Reg
		m       *tensor.Matrix
		changed bool
	}
	var held []content
	was := b.parts
	b.parts = map[program.Reg]*streams.Piece{}
	b.frame.Leave(func(g program.Reg, m *tensor.Matrix, changed bool) {
		held = append(held, content{g, m, changed})
		if piece := was[g]; piece != nil && piece.Holds(m) {
			b.parts[g] = piece
			delete(was, g)
		}
	})
	for _, piece := range was { // of registers that are not needed any more
		w.Store.Drop(piece)
	}
	for _, c := range held {
		var err error
		if piece := b.parts[c.g]; piece != nil {
			err = w.Store.Done(piece, c.m, c.changed)
		} else {
			b.parts[c.g], err = w.Store.Put(c.m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// show brings the frames of a batch to a stage and shows them.
func (w *Walk) show(stage int, all []Stream, frames []*program.Frame, v Visitor) error {
	there := make([]*program.Frame, len(frames))
	for k, f := range frames {
		there[k] = w.Runner.ToStage(all[k].Block, f, stage)
	}
	err := v.Observe(stage, there)
	for k, f := range there {
		if f != frames[k] {
			w.Runner.Done(f)
		}
	}
	return err
}
