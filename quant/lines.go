package quant

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// RoundLines rounds to nearest, as RTN does, the lines from first on, which
// are the rows of x: for callers that do not want the whole weight in memory.
// Different lines may be filled concurrently.
func (w *Weight) RoundLines(first int, x *tensor.Matrix) error { return w.RoundWeighted(first, x, nil) }

// RoundWeighted is RoundLines where it is known how much an error at each input matters,
// [in] (the diagonal of H), to Scheme.ClipInput. In axis IC a line has one input, and
// its errors count alike.
func (w *Weight) RoundWeighted(first int, x *tensor.Matrix, importance []float32) error {
	w.checkLines(first, x.Rows, x.Cols)
	if w.Scheme.Axis == IC || !w.Scheme.ClipInput {
		importance = nil
	}
	b := newLineBuffers(w)
	for i := range x.Rows {
		if err := w.fillLine(first+i, x.Row(i), importance, b); err != nil {
			return err
		}
	}
	return nil
}

// RoundBF16 is RoundLines for lines of bfloat16 that follow each other in
// src. The plain 4-bit scheme takes one pass.
func (w *Weight) RoundBF16(first int, src []uint16) error {
	return w.roundHalves(first, src, tensor.BF16ToF32, kernel.RTN4BF16)
}

// RoundF16 is RoundBF16 for half floats.
func (w *Weight) RoundF16(first int, src []uint16) error {
	return w.roundHalves(first, src, tensor.F16ToF32, kernel.RTN4F16)
}

// rtn4 rounds a line of a type in one pass, as kernel.RTN4F32.
type rtn4[T uint16 | float32] func(codes []uint32, scales []float32, zeros []uint8, line []T, group int) bool

func (w *Weight) roundHalves(first int, src []uint16, widen func(dst []float32, src []uint16), fused rtn4[uint16]) error {
	n := w.LineLen()
	lines := len(src) / n
	w.checkLines(first, lines, n)
	var b *lineBuffers
	var wide []float32
	for i := range lines {
		line := src[i*n : (i+1)*n]
		if roundFused(w, first+i, line, fused) {
			continue
		}
		if b == nil {
			b, wide = newLineBuffers(w), make([]float32, n)
		}
		widen(wide, line)
		if err := w.fillLine(first+i, wide, nil, b); err != nil {
			return err
		}
	}
	return nil
}

// roundFused rounds line l in one pass and reports whether it could: it
// cannot if the kernel does not know the scheme or the line does not fit its
// scales. fillLine then does it, or says what is wrong.
func roundFused[T uint16 | float32](w *Weight, l int, line []T, fused rtn4[T]) bool {
	s := w.Scheme
	if s.Grid != nil || s.Bits != 4 || s.Symmetric || s.Strided || s.Clip || s.Range != RangeZero || s.ScaleType != F16 || s.MinZero > 0 {
		return false
	}
	words, groups := w.WordsPerLine(), w.Groups()
	codes := w.Codes[l*words : (l+1)*words]
	scales, zeros := w.Scales[l*groups:(l+1)*groups], w.Zeros[l*groups:(l+1)*groups]
	return fused(codes, scales, zeros, line, s.GroupLen(len(line)))
}

func (w *Weight) checkLines(first, lines, length int) {
	if length != w.LineLen() || first < 0 || first+lines > w.Lines() {
		panic("quant: lines that the weight does not have")
	}
}
