package checkpoint

import (
	"encoding/binary"
	"io"
	"math"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
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
		if i, v := notFinite(s.DType, p); i >= 0 && !isBuffer(s.Name) {
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

// notFinite returns the first element of data that is NaN or infinite, or -1.
func notFinite(t safetensors.DType, data []byte) (int, float64) {
	// Of every element in a word: the exponent, all ones in NaN and infinities,
	// and all bits but the highest.
	var exponent, low uint64
	size := t.Bits() / 8
	switch t {
	case safetensors.F16:
		exponent, low = 0x7c00_7c00_7c00_7c00, 0x7fff_7fff_7fff_7fff
	case safetensors.BF16:
		exponent, low = 0x7f80_7f80_7f80_7f80, 0x7fff_7fff_7fff_7fff
	case safetensors.F32:
		exponent, low = 0x7f80_0000_7f80_0000, 0x7fff_ffff_7fff_ffff
	case safetensors.F64:
		exponent, low = 0x7ff0_0000_0000_0000, math.MaxInt64
	default:
		return -1, 0
	}
	i := 0
	for ; i+8 <= len(data); i += 8 {
		// What is missing of the exponent, 0 where nothing is; adding low
		// carries into the highest bit of every element that is not 0.
		missing := ^binary.LittleEndian.Uint64(data[i:]) & exponent
		if (missing+low)|low != math.MaxUint64 {
			break
		}
	}
	for ; i+size <= len(data); i += size {
		if v := element(t, data[i:]); math.IsNaN(v) || math.IsInf(v, 0) {
			return i / size, v
		}
	}
	return -1, 0
}

// element reads one float.
func element(t safetensors.DType, p []byte) float64 {
	if t == safetensors.F64 {
		return math.Float64frombits(binary.LittleEndian.Uint64(p))
	}
	var v [1]float32
	if err := safetensors.DecodeFloat32(v[:], t, p[:t.Bits()/8]); err != nil {
		return 0
	}
	return float64(v[0])
}
