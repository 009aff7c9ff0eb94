package walk

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/tensor"
)

// Backward takes a text forward through a model and the gradient of a loss back, block
// by block. What enters each block is kept in the Store of the Walk on the way
// forward, and a block is computed again on the way back.
type Backward struct {
	// Loss writes to g the gradient of the loss at logits, float32 [tokens, vocab],
	// those of a window that begin at token first. Windows come in order.
	Loss func(window, first int, logits, g *tensor.Matrix)
	// Begin is shown what enters a block, before it is gone back through, if not nil.
	Begin func(ctx context.Context, b *program.Block, x *Residual) error
	// Gradient is shown the gradients at the outputs of the linears of a block,
	// batch by batch, and with Inputs their inputs (see program.Gradient).
	Gradient func(b *program.Block, linear int, x, g *tensor.Matrix) error
	Inputs   bool
	// Settle ends a block, of which all batches were shown.
	Settle func(b *program.Block) error
	// First is the first block whose gradients are shown; none go beyond it.
	First int
	// Step is called after each block on either way, if not nil.
	Step func(done, total int)
}

// Reversible tells whether gradients go back through all blocks of a model. The error
// wraps program.ErrNoGradient.
func Reversible(m *decoder.Model) error {
	for _, p := range m.Blocks {
		if err := p.Reversible(); err != nil {
			return err
		}
	}
	return nil
}

// Back runs all windows, SeqLen ids each, through the model and back. The model must
// be Reversible.
func (w *Walk) Back(ctx context.Context, windows [][]int32, v *Backward) error {
	layers := w.Model.Layers
	entering := make([]*Residual, layers, layers+1) // by block
	all, err := w.Start(ctx, windows, 1)
	if err != nil {
		return err
	}
	x := all[0]
	defer func() {
		for _, r := range append(entering, x) {
			w.Drop(r)
		}
	}()
	step := func(done int) {
		if v.Step != nil {
			v.Step(done, 2*layers-v.First)
		}
	}
	err = w.Blocks(ctx, layers, func(b *program.Block) error {
		if b.Index >= v.First {
			if entering[b.Index], err = w.copied(x); err != nil {
				return err
			}
		}
		defer step(b.Index + 1)
		return w.Pass(ctx, b, x, true, nil)
	})
	if err != nil {
		return err
	}
	if err := w.headBack(ctx, x, v); err != nil {
		return err
	}
	return w.inOrder(ctx, reversed(w.Model.Blocks[v.First:]), func(b *program.Block) error {
		if v.Begin != nil {
			if err := v.Begin(ctx, b, entering[b.Index]); err != nil {
				return err
			}
		}
		err := w.blockBack(ctx, b, entering[b.Index], x, v)
		if err == nil {
			err = v.Settle(b)
		}
		w.Drop(entering[b.Index])
		entering[b.Index] = nil
		step(2*layers - b.Index)
		return err
	})
}

func reversed(all []*program.Program) []*program.Program {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all
}

// copied is another stream with the same content.
func (w *Walk) copied(r *Residual) (*Residual, error) {
	c := &Residual{}
	for _, p := range r.batches {
		x, err := w.Store.Load(p)
		if err != nil {
			return c, err
		}
		own := w.Runner.Matrix(x.Rows, x.Cols)
		own.CopyFrom(x)
		if err := w.Store.Done(p, x, false); err != nil {
			return c, err
		}
		piece, err := w.Store.Put(own)
		if err != nil {
			return c, err
		}
		c.batches = append(c.batches, piece)
	}
	return c, nil
}

// Drop gives up what is kept of a stream, which may be nil.
func (w *Walk) Drop(r *Residual) {
	if r == nil {
		return
	}
	for _, p := range r.batches {
		w.Store.Drop(p)
	}
	r.batches = nil
}

// headBack replaces what leaves the last block by the gradient there.
func (w *Walk) headBack(ctx context.Context, r *Residual, v *Backward) error {
	head, err := w.Model.LoadHead(w.Weights, nil)
	if err != nil {
		return err
	}
	vocab := w.Model.Vocab
	chunk := LogitsChunk(vocab, 2, w.SeqLen)
	logits, g := tensor.New(chunk, vocab), tensor.New(chunk, vocab)
	window := 0
	for _, p := range r.batches {
		x, err := w.Store.Load(p)
		if err != nil {
			return err
		}
		for r0 := 0; r0 < x.Rows; r0 += w.SeqLen {
			if err := ctx.Err(); err != nil {
				return err
			}
			for t0 := 0; t0 < w.SeqLen; t0 += chunk {
				n := min(chunk, w.SeqLen-t0)
				part, l, d := Rows(x, r0+t0, r0+t0+n), Rows(logits, 0, n), Rows(g, 0, n)
				head.Logits(w.Runner, l, part)
				v.Loss(window, t0, l, d)
				back := w.Runner.Matrix(n, x.Cols)
				head.Back(w.Runner, back, part, l, d)
				part.CopyFrom(back)
				w.Runner.Release(back)
			}
			window++
		}
		if err := w.Store.Done(p, x, true); err != nil {
			return err
		}
	}
	return nil
}

// blockBack takes the gradient g at what leaves a block back to what enters it, x.
func (w *Walk) blockBack(ctx context.Context, b *program.Block, x, g *Residual, v *Backward) error {
	for i, p := range x.batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := w.Store.Load(p)
		if err != nil {
			return err
		}
		d, err := w.Store.Load(g.batches[i])
		if err != nil {
			return err
		}
		err = w.Runner.Backward(b, in, d, w.SeqLen, v.Inputs, func(linear int, x, g *tensor.Matrix) error { return v.Gradient(b, linear, x, g) })
		if err != nil {
			return err
		}
		for i := range d.Rows {
			if j := wire.NotFinite(d.Row(i)); j >= 0 {
				return fmt.Errorf("%w: the gradient before block %d (%s) is %g", ErrNotFinite, b.Index, strings.TrimSuffix(b.Prefix(), "."), d.At(i, j))
			}
		}
		if err := w.Store.Done(p, in, false); err != nil {
			return err
		}
		if err := w.Store.Done(g.batches[i], d, true); err != nil {
			return err
		}
	}
	w.Runner.Forget()
	return nil
}
