// Package walk is the one way through a model: block by block, and inside a
// block stage by stage. It moves residual streams and shows visitors what the
// linear layers read; what they make of it is theirs.
package walk

import (
	"context"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/held"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/tensor"
)

// Walk is a model on its way over windows of tokens.
type Walk struct {
	Model   *decoder.Model
	Weights program.Weights
	Runner  *program.Runner
	SeqLen  int // tokens a window
	// Store keeps residual streams. Embed and Forward do without.
	Store *streams.Store
	// Alone says that no block is read while another is worked on.
	Alone bool
	// Held are weights that are read only when they are needed; nil if there are none.
	Held *held.Set
}

// Hold has weights of experts read when they are needed, and so many bytes of them kept.
func (w *Walk) Hold(experts int64) {
	w.Held = &held.Set{Limit: experts, BF16: w.Runner.BF16}
	w.Weights = w.Held.Experts(w.Weights, w.Model.Blocks)
}

// Embed returns the residual stream [tokens, hidden] of windows, SeqLen ids
// each, before the first block.
func (w *Walk) Embed(e *decoder.Embedding, windows [][]int32) (*tensor.Matrix, error) {
	x := tensor.New(len(windows)*w.SeqLen, w.Model.Hidden)
	return x, w.embed(x, e, windows)
}

func (w *Walk) embed(x *tensor.Matrix, e *decoder.Embedding, windows [][]int32) error {
	for i, ids := range windows {
		if err := e.Embed(Rows(x, i*w.SeqLen, (i+1)*w.SeqLen), ids); err != nil {
			return err
		}
	}
	return nil
}

// Rows returns rows [r0, r1) of a matrix.
func Rows(m *tensor.Matrix, r0, r1 int) *tensor.Matrix { return m.View(r0, r1, 0, m.Cols) }

// Blocks calls fn for the first n blocks in order. While it works on one the
// next is read, so that the weights of two blocks are in memory, unless w.Alone.
// When it returns nothing is read any more.
func (w *Walk) Blocks(ctx context.Context, n int, fn func(b *program.Block) error) error {
	return w.Between(ctx, 0, n, fn)
}

// Between is Blocks for the blocks [first, n).
func (w *Walk) Between(ctx context.Context, first, n int, fn func(b *program.Block) error) error {
	return w.inOrder(ctx, w.Model.Blocks[first:n], fn)
}

// inOrder is Blocks in any order.
func (w *Walk) inOrder(ctx context.Context, blocks []*program.Program, fn func(b *program.Block) error) error {
	if w.Alone {
		for _, p := range blocks {
			if err := ctx.Err(); err != nil {
				return err
			}
			var b *program.Block
			err := phases.In(ctx, phases.Reading, func() (err error) {
				b, err = p.Load(w.Weights)
				return err
			})
			if err != nil {
				return err
			}
			if err := fn(b); err != nil {
				return err
			}
		}
		return nil
	}
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
		for _, p := range blocks {
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
	for range blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		waiting := phases.Of(ctx).Enter(phases.Reading)
		l, ok := <-next
		waiting()
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

// Forward takes a stream [tokens, hidden] through a block, in place.
func (w *Walk) Forward(ctx context.Context, b *program.Block, x *tensor.Matrix) error {
	defer phases.Of(ctx).Enter(phases.Forward)()
	step := program.Batch(w.SeqLen)
	for r0 := 0; r0 < x.Rows; r0 += step {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.Runner.Forward(b, Rows(x, r0, min(r0+step, x.Rows)), w.SeqLen, nil); err != nil {
			return err
		}
	}
	return w.Held.Err()
}
