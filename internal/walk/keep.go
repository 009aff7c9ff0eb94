package walk

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/wire"
)

// ErrKept is wrapped by the error for kept streams that cannot be gone on with.
var ErrKept = errors.New("no streams of this text")

// keptMark begins what Keep writes: the mark, the head (see keptHead), then, batch by
// batch of one stream after the other, float32 and the CRC-32C of all bytes so far.
const keptMark = "lowbit streams 1"

// keptHead is what kept streams are.
type keptHead struct{ Block, Streams, Tokens, Hidden uint64 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kept is how many bytes Keep writes of streams.
func Kept(all []*Residual) int64 {
	n := int64(len(keptMark) + binary.Size(keptHead{}))
	for _, r := range all {
		for _, p := range r.batches {
			n += p.Bytes() + crc32.Size
		}
	}
	return n
}

// Keep writes streams of one text, as they are before a block, for Restore.
func (w *Walk) Keep(ctx context.Context, out io.Writer, block int, all []*Residual) error {
	buffered := bufio.NewWriterSize(out, 1<<20)
	sum := uint32(0)
	write := func(b []byte) error {
		sum = crc32.Update(sum, castagnoli, b)
		_, err := buffered.Write(b)
		return err
	}
	tokens := uint64(0)
	for _, p := range all[0].batches {
		tokens += uint64(p.Rows())
	}
	head := []byte(keptMark)
	for _, v := range []uint64{uint64(block), uint64(len(all)), tokens, uint64(w.Model.Hidden)} {
		head = binary.LittleEndian.AppendUint64(head, v)
	}
	if err := write(head); err != nil {
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
			_, err = wire.EncodePieces(wire.F32, m.Data[:m.Rows*m.Cols], write)
			if err := errors.Join(err, w.Store.Done(p, m, false)); err != nil {
				return err
			}
			if _, err := buffered.Write(binary.LittleEndian.AppendUint32(nil, sum)); err != nil {
				return err
			}
		}
	}
	return buffered.Flush()
}

// Restore returns n streams of a text of so many tokens as Keep has written them, and the
// block before which they are; nil, and nothing is read but that, if it is behind most.
// Errors wrap ErrKept, those of in or of the Store.
func (w *Walk) Restore(ctx context.Context, in io.ReaderAt, n, tokens, most int) (all []*Residual, block int, err error) {
	defer func() {
		if err != nil {
			for _, r := range all {
				w.drop(r)
			}
			all = nil
		}
	}()
	raw := make([]byte, len(keptMark)+binary.Size(keptHead{}))
	if _, err := in.ReadAt(raw, 0); err != nil {
		return nil, 0, err
	}
	var head keptHead
	if _, err := binary.Decode(raw[len(keptMark):], binary.LittleEndian, &head); err != nil {
		return nil, 0, err
	}
	want := keptHead{head.Block, uint64(n), uint64(tokens), uint64(w.Model.Hidden)}
	if string(raw[:len(keptMark)]) != keptMark || head != want || head.Block > uint64(w.Model.Layers) {
		return nil, 0, fmt.Errorf("%w: %q %v, want %q %v", ErrKept, raw[:len(keptMark)], head, keptMark, want)
	}
	if head.Block > uint64(most) {
		return nil, 0, nil
	}
	at, sum := int64(len(raw)), crc32.Update(0, castagnoli, raw)
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
			data := m.Data[:rows*w.Model.Hidden]
			var end [crc32.Size]byte
			err := wire.ReadBytes(in, at, data, func(b []byte) { sum = crc32.Update(sum, castagnoli, b) })
			if at += 4 * int64(len(data)); err == nil {
				_, err = in.ReadAt(end[:], at)
			}
			if err == nil && binary.LittleEndian.Uint32(end[:]) != sum {
				err = fmt.Errorf("%w: CRC-32C %08x before byte %d, want %08x", ErrKept, sum, at, end)
			}
			if err != nil {
				w.Runner.Release(m)
				return all, 0, err
			}
			at += crc32.Size
			p, err := w.Store.Put(m)
			if err != nil {
				return all, 0, err
			}
			r.batches = append(r.batches, p)
		}
	}
	return all, int(head.Block), nil
}
