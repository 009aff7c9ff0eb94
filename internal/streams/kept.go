package streams

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/golowbit/lowbit/internal/wire"
)

// ErrKept is wrapped by the error for what was kept for a resumed run and cannot be gone
// on with.
var ErrKept = errors.New("nothing of this text")

// SealSize is how many bytes a seal takes.
const SealSize = crc32.Size

// KeptWriter writes what is kept for a resumed run: numbers and floats, little-endian, and
// seals: the CRC-32C of all bytes so far but for earlier seals.
type KeptWriter struct {
	out *bufio.Writer
	sum uint32
}

// NewKeptWriter begins with a mark, which says what follows.
func NewKeptWriter(out io.Writer, mark string) (*KeptWriter, error) {
	w := &KeptWriter{out: bufio.NewWriterSize(out, 1<<20)}
	return w, w.Bytes([]byte(mark))
}

// Bytes writes p.
func (w *KeptWriter) Bytes(p []byte) error {
	w.sum = crc32.Update(w.sum, table, p)
	_, err := w.out.Write(p)
	return err
}

// Numbers writes each in 8 bytes.
func (w *KeptWriter) Numbers(list ...uint64) error {
	var b []byte
	for _, v := range list {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return w.Bytes(b)
}

// Floats writes float32.
func (w *KeptWriter) Floats(v []float32) error {
	_, err := wire.EncodePieces(wire.F32, v, w.Bytes)
	return err
}

// Seal writes the checksum.
func (w *KeptWriter) Seal() error {
	_, err := w.out.Write(binary.LittleEndian.AppendUint32(nil, w.sum))
	return err
}

// Flush ends the writing.
func (w *KeptWriter) Flush() error { return w.out.Flush() }

// KeptReader reads what a KeptWriter has written. Errors wrap ErrKept or are those of the
// file, io.EOF among them.
type KeptReader struct {
	in  io.ReaderAt
	at  int64
	sum uint32
}

// NewKeptReader reads the mark and refuses another.
func NewKeptReader(in io.ReaderAt, mark string) (*KeptReader, error) {
	r := &KeptReader{in: in}
	got := make([]byte, len(mark))
	if err := r.Bytes(got); err != nil {
		return nil, err
	}
	if string(got) != mark {
		return nil, fmt.Errorf("%w: %q, want %q", ErrKept, got, mark)
	}
	return r, nil
}

// Bytes reads all of p.
func (r *KeptReader) Bytes(p []byte) error {
	n, err := r.in.ReadAt(p, r.at)
	if n == len(p) {
		err = nil
	}
	r.at += int64(n)
	r.sum = crc32.Update(r.sum, table, p[:n])
	return err
}

// Numbers reads n numbers.
func (r *KeptReader) Numbers(n int) ([]uint64, error) {
	raw, list := make([]byte, 8*n), make([]uint64, n)
	if err := r.Bytes(raw); err != nil {
		return nil, err
	}
	for i := range list {
		list[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return list, nil
}

// Floats reads all of dst.
func (r *KeptReader) Floats(dst []float32) error {
	err := wire.ReadBytes(r.in, r.at, dst, func(b []byte) { r.sum = crc32.Update(r.sum, table, b) })
	r.at += 4 * int64(len(dst))
	return err
}

// Seal compares the checksum.
func (r *KeptReader) Seal() error {
	var end [SealSize]byte
	if _, err := r.in.ReadAt(end[:], r.at); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint32(end[:]); got != r.sum {
		return fmt.Errorf("%w: CRC-32C %08x before byte %d, want %08x", ErrKept, r.sum, r.at, got)
	}
	r.at += SealSize
	return nil
}
