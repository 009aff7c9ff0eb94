package checkpoint

import (
	"io"

	"github.com/golowbit/lowbit/checkpoint/internal/leftover"
	"github.com/golowbit/lowbit/checkpoint/internal/weights"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// pieceBytes is how much of a tensor is read at a time: whole elements.
const pieceBytes = 1 << 20

// eachPiece reads a dense tensor from r and calls fn for its pieces in order.
// NaN and infinities are errors.
func eachPiece(src layout.Source, s layout.Spec, r io.ReaderAt, fn func(piece []byte, off int64) error) error {
	size := s.Bytes()
	buf := make([]byte, min(size, pieceBytes))
	for off := int64(0); off < size; off += pieceBytes {
		p := buf[:min(pieceBytes, size-off)]
		if n, err := r.ReadAt(p, off); n < len(p) {
			return layout.TensorError(src, s.Name, "reading: %w", err)
		}
		if i, v := weights.NotFinite(s.DType, p); i >= 0 && !leftover.IsBuffer(s.Name) {
			at := int(off)/max(1, s.DType.Bits()/8) + i
			return notFiniteError(src, s.Name, at, float32(v))
		}
		if err := fn(p, off); err != nil {
			return err
		}
	}
	return nil
}

// checkCopied looks for NaN and infinities in the tensors that belong to no
// layer to be quantized and are copied.
func (w *Writer) checkCopied() error {
	src := w.o.Source
	return w.eachTensor(func(string) error { return nil }, func(s layout.Spec) error {
		return eachPiece(src.src, s, layout.ReaderOf(src.src, s), func([]byte, int64) error { return nil })
	})
}
