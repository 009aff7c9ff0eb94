// Package walk is the one way through a model: block by block, and inside a
// block stage by stage. It moves residual streams and shows visitors what the
// linear layers read; what they make of it is theirs.
package walk

import (
	"context"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// Walk is a model on its way over windows of tokens.
type Walk struct {
	Model   *decoder.Model
	Weights program.Weights
	Runner  *program.Runner
	SeqLen  int // tokens a window
}

// Embed returns the residual stream [tokens, hidden] of windows, SeqLen ids
// each, before the first block, and the embedding.
func (w *Walk) Embed(windows [][]int32) (*tensor.Matrix, *decoder.Embedding, error) {
	e, err := w.Model.LoadEmbedding(w.Weights)
	if err != nil {
		return nil, nil, err
	}
	x := tensor.New(len(windows)*w.SeqLen, w.Model.Hidden)
	for i, ids := range windows {
		if err := e.Embed(Rows(x, i*w.SeqLen, (i+1)*w.SeqLen), ids); err != nil {
			return nil, nil, err
		}
	}
	return x, e, nil
}

// Rows returns rows [r0, r1) of a matrix.
func Rows(m *tensor.Matrix, r0, r1 int) *tensor.Matrix { return m.View(r0, r1, 0, m.Cols) }

// Blocks calls fn for the first n blocks in order. While it works on one the
// next is read: the weights of two blocks are in memory. When it returns
// nothing is read any more.
func (w *Walk) Blocks(ctx context.Context, n int, fn func(b *program.Block) error) error {
	type loaded struct {
		block *program.Block
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	next := make(chan loaded)
	defer func() {
		cancel()
		for range next { // until it is closed
		}
	}()
	go func() {
		defer close(next)
		for _, p := range w.Model.Blocks[:n] {
			if ctx.Err() != nil {
				return
			}
			b, err := p.Load(w.Weights)
			select {
			case next <- loaded{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, ok := <-next
		if !ok {
			return ctx.Err()
		}
		if l.err != nil {
			return l.err
		}
		if err := fn(l.block); err != nil {
			return err
		}
	}
	return nil
}

// Batches calls fn for batches of whole windows, rows [r0, r1) of n.
func (w *Walk) Batches(ctx context.Context, n int, fn func(r0, r1 int) error) error {
	step := program.Batch(w.SeqLen)
	for r0 := 0; r0 < n; r0 += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(r0, min(r0+step, n)); err != nil {
			return err
		}
	}
	return nil
}

// Forward takes a stream [tokens, hidden] through a block, in place. observe, if
// not nil, sees every stage, batch by batch: row0 is the batch's first row.
func (w *Walk) Forward(ctx context.Context, b *program.Block, x *tensor.Matrix, observe func(stage, row0 int, f *program.Frame) error) error {
	return w.Batches(ctx, x.Rows, func(r0, r1 int) error {
		var o program.Observer
		if observe != nil {
			o = func(stage int, f *program.Frame) error { return observe(stage, r0, f) }
		}
		return w.Runner.Forward(b, Rows(x, r0, r1), w.SeqLen, o)
	})
}

// Stream is a residual stream [tokens, hidden] and the block it goes through.
type Stream struct {
	Block *program.Block
	X     *tensor.Matrix
}

// Visitor works on a block stage by stage.
type Visitor interface {
	// Wants reports whether the visitor is to be shown a stage.
	Wants(stage int) bool
	// Observe shows a stage of a batch that begins at a row, one frame for
	// each stream.
	Observe(stage, row0 int, frames []*program.Frame) error
	// Settle ends a stage once all batches were shown: weights of the linears
	// that read it may change now, and those before it no longer.
	Settle(ctx context.Context, stage int) error
}

// Stages takes streams through a block side by side, all batches of a stage
// before the next. What has to be kept of a batch between stages stays in
// memory for all tokens.
func (w *Walk) Stages(ctx context.Context, streams []Stream, v Visitor) error {
	p := streams[0].Block.Program
	n := streams[0].X.Rows
	batch := program.Batch(w.SeqLen)
	frames := make([][]*program.Frame, (n+batch-1)/batch)
	for i := range frames {
		for _, s := range streams {
			x := Rows(s.X, i*batch, min((i+1)*batch, n))
			frames[i] = append(frames[i], p.NewFrame(x, w.SeqLen))
		}
	}
	for stage := range p.Stages {
		if v.Wants(stage) {
			err := w.Batches(ctx, n, func(r0, _ int) error {
				return w.show(stage, r0, streams, frames[r0/batch], v)
			})
			if err != nil {
				return err
			}
		}
		if err := v.Settle(ctx, stage); err != nil {
			return err
		}
	}
	return w.Batches(ctx, n, func(r0, _ int) error {
		for k, f := range frames[r0/batch] {
			w.Runner.Finish(streams[k].Block, f)
		}
		return nil
	})
}

// show brings the frames of a batch to a stage and shows them.
func (w *Walk) show(stage, row0 int, streams []Stream, frames []*program.Frame, v Visitor) error {
	there := make([]*program.Frame, len(frames))
	for k, f := range frames {
		there[k] = w.Runner.ToStage(streams[k].Block, f, stage)
	}
	err := v.Observe(stage, row0, there)
	for k, f := range there {
		if f != frames[k] {
			w.Runner.Done(f)
		}
	}
	return err
}
