package blocks

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// batchMark begins a batch of the stream that parts leave for each other: the mark, its
// rows and width, float32, and a seal.
const batchMark = "lowbit batch 1"

func batchName(block, batch int) string { return fmt.Sprintf("batch-%d-%d", block, batch) }

// errChosen says that another part has chosen the scales meanwhile.
var errChosen = errors.New("chosen")

// sample is a part of the quantized stream, of at least so many tokens of all the text;
// done must be called. Parts have some of its batches each, and leave them for the others.
func (r *run) sample(ctx context.Context, tokens int) (s *walk.Residual, done func(), err error) {
	if r.Team == nil {
		return r.quantized.Sample(tokens), func() {}, nil
	}
	windows, batch, n, first, end := r.batches()
	list := walk.Sampled(n, windows*r.walk.SeqLen, tokens)
	for _, i := range list {
		if first <= i && i < end {
			if err := r.putBatch(i, i-first); err != nil {
				return nil, nil, err
			}
		}
	}
	s = &walk.Residual{}
	for _, i := range list {
		x, err := r.getBatch(ctx, i, min(batch, windows-i*batch)*r.walk.SeqLen, n)
		if err == nil {
			err = r.walk.Add(s, x)
		}
		if err != nil {
			r.walk.Drop(s)
			return nil, nil, err
		}
	}
	return s, func() { r.walk.Drop(s) }, nil
}

// batches are how many windows all the text has and how many a batch, how many batches
// that makes, and which of them, from first to before end, are this part's.
func (r *run) batches() (windows, batch, n, first, end int) {
	batch = program.Batch(r.walk.SeqLen) / r.walk.SeqLen
	for _, n := range r.chunks {
		windows += n
	}
	n = (windows + batch - 1) / batch
	return windows, batch, n, n * r.from / len(r.chunks), n * r.to / len(r.chunks)
}

func (r *run) putBatch(batch, own int) error {
	x, err := r.walk.Batch(r.quantized, own)
	if err != nil {
		return err
	}
	return r.Team.Folder.Put(batchName(r.block.Index, batch), func(out io.Writer) error {
		k, err := streams.NewKeptWriter(out, batchMark)
		if err == nil {
			err = k.Numbers(uint64(x.Rows), uint64(x.Cols))
		}
		for i := 0; err == nil && i < x.Rows; i++ {
			err = k.Floats(x.Row(i))
		}
		if err == nil {
			err = k.Seal()
		}
		if err == nil {
			err = k.Flush()
		}
		return err
	})
}

// getBatch waits for one of n batches, or until the scales are chosen.
func (r *run) getBatch(ctx context.Context, batch, rows, n int) (x *tensor.Matrix, err error) {
	folder, name := r.Team.Folder, batchName(r.block.Index, batch)
	from := 0 // whose it is
	for c := range r.chunks {
		if n*c/len(r.chunks) <= batch {
			from = r.summer(c)
		}
	}
	err = r.wait(ctx, fmt.Sprintf("the text before block %d", r.block.Index), from, func() (bool, error) {
		file, err := folder.Open(name)
		if err != nil {
			return false, err
		}
		if file == nil {
			chosen, err := r.Team.Note(foldNote(r.block.Program))
			if err == nil && chosen {
				err = errChosen
			}
			return false, err
		}
		defer file.Close()
		k, err := streams.NewKeptReader(file, batchMark)
		if err != nil {
			return false, err
		}
		size, err := k.Numbers(2)
		if err == nil && (size[0] != uint64(rows) || size[1] != uint64(r.walk.Model.Hidden)) {
			err = fmt.Errorf("%w: %v, want %d tokens of width %d", streams.ErrKept, size, rows, r.walk.Model.Hidden)
		}
		if err == nil {
			x = r.walk.Runner.Matrix(rows, r.walk.Model.Hidden)
			err = k.Floats(x.Data[:rows*x.Cols])
		}
		if err == nil {
			err = k.Seal()
		}
		if err != nil {
			err = fmt.Errorf("%s: %w: remove it, and run part %d again", folder.Path(name), err, from)
		}
		return true, err
	})
	return x, err
}

// dropBatches removes this part's batches of a block. Whoever has not read them yet finds
// the scales that were chosen.
func (r *run) dropBatches() error {
	if r.Team == nil || !r.folds() || r.Full {
		return nil
	}
	_, _, _, first, end := r.batches()
	for i := first; i < end; i++ {
		if err := r.Team.Folder.Remove(batchName(r.block.Index, i)); err != nil {
			return err
		}
	}
	return nil
}
