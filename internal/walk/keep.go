package walk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
)

// keptMark begins what Keep writes: the mark, keptHead numbers (the block, how many
// streams, their tokens, their width), then, batch by batch of one stream after the
// other, float32 and a seal.
const (
	keptMark = "lowbit streams 1"
	keptHead = 4
)

// Kept is how many bytes Keep writes of streams.
func Kept(all []*Residual) int64 {
	n := int64(len(keptMark) + 8*keptHead)
	for _, r := range all {
		for _, p := range r.batches {
			n += p.Bytes() + streams.SealSize
		}
	}
	return n
}

// Keep writes streams of one text, as they are before a block, for Restore.
func (w *Walk) Keep(ctx context.Context, out io.Writer, block int, all []*Residual) error {
	k, err := streams.NewKeptWriter(out, keptMark)
	if err != nil {
		return err
	}
	tokens := 0
	for _, p := range all[0].batches {
		tokens += p.Rows()
	}
	if err := k.Numbers(uint64(block), uint64(len(all)), uint64(tokens), uint64(w.Model.Hidden)); err != nil {
		return err
	}
	for _, r := range all {
		for _, p := range r.batches {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := w.Store.Load(p)
			if err != nil {
				return err
			}
			err = k.Floats(m.Data[:m.Rows*m.Cols])
			if err := errors.Join(err, w.Store.Done(p, m, false)); err != nil {
				return err
			}
			if err := k.Seal(); err != nil {
				return err
			}
		}
	}
	return k.Flush()
}

// Restore returns n streams of a text of so many tokens as Keep has written them, and the
// block before which they are; nil, and nothing is read but that, if it is behind most.
// Errors wrap streams.ErrKept, those of in or of the Store.
func (w *Walk) Restore(ctx context.Context, in io.ReaderAt, n, tokens, most int) (all []*Residual, block int, err error) {
	defer func() {
		if err != nil {
			for _, r := range all {
				w.Drop(r)
			}
			all = nil
		}
	}()
	k, err := streams.NewKeptReader(in, keptMark)
	if err != nil {
		return nil, 0, err
	}
	head, err := k.Numbers(keptHead)
	if err != nil {
		return nil, 0, err
	}
	want := []uint64{head[0], uint64(n), uint64(tokens), uint64(w.Model.Hidden)}
	if !slices.Equal(head, want) || head[0] > uint64(w.Model.Layers) {
		return nil, 0, fmt.Errorf("%w: %v, want %v", streams.ErrKept, head, want)
	}
	if head[0] > uint64(most) {
		return nil, 0, nil
	}
	for range n {
		r := &Residual{}
		all = append(all, r)
		for left := tokens; left > 0; {
			if err := ctx.Err(); err != nil {
				return all, 0, err
			}
			rows := min(left, program.Batch(w.SeqLen))
			left -= rows
			m := w.Runner.Matrix(rows, w.Model.Hidden)
			err := k.Floats(m.Data[:rows*w.Model.Hidden])
			if err == nil {
				err = k.Seal()
			}
			if err != nil {
				w.Runner.Release(m)
				return all, 0, err
			}
			p, err := w.Store.Put(m)
			if err != nil {
				return all, 0, err
			}
			r.batches = append(r.batches, p)
		}
	}
	return all, int(head[0]), nil
}
