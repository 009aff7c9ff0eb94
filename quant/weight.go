package quant

import (
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/tensor"
)

// Weight is a quantized weight matrix [Out, In].
//
// Codes, scales and zero-points are stored by line: a line is an output row
// for axis OC and an input column for axis IC. Line l has Groups() groups;
// its scale and zero-point for group k are Scales[l*Groups()+k] and
// Zeros[l*Groups()+k]. Its codes are a dense little-endian bit stream in
// Codes[l*WordsPerLine() : (l+1)*WordsPerLine()]: code p occupies the bits
// [p*Bits, (p+1)*Bits).
//
// The weight that element (r, j) stands for is
//
//	Scale*(code-Zero) * RowScale[r] * InputScale[j]
//
// in float32, multiplied in this order, where absent scales count as 1. With
// a Scheme.Grid the first factor is that grid's value, of the scale and of
// Shifts in place of Zeros. With Summands it is the sum of its own and theirs. The inputs in
// Columns have values of their own.
type Weight struct {
	Out, In int
	Scheme  Scheme

	Codes  []uint32
	Scales []float32
	Zeros  []uint8   // nil with a Scheme.Grid
	Shifts []float32 // by group as Scales, with a Scheme.Grid; else nil

	// GroupIndex gives the group of each position of a line where it does
	// not follow from the scheme (GPTQ act-order with dynamic groups), else nil.
	GroupIndex []int32

	// RowScale [Out] and InputScale [In] are optional factors outside the
	// groups, already rounded to the type in which they are stored.
	RowScale, InputScale []float32

	// Columns are the inputs, in ascending order, whose weights are kept in 16 bits
	// beside their codes, as outlier features' are (LLM.int8(), arXiv 2208.07339);
	// nil if there are none. ColumnValues [len(Columns), Out] has these weights, half
	// floats: those of Columns[i] are ColumnValues[i*Out : (i+1)*Out].
	Columns      []int32
	ColumnValues []float32

	// Summands are further weights whose values are added, in order, to those of the
	// groups, before RowScale and InputScale. They have shape and scheme of the weight, and
	// codes, scales and zero-points alone.
	Summands []*Weight

	// RowLoss [Out] is e_r H e_rᵀ of each row as found by the method, if it
	// knows it; nil otherwise. It is not stored in checkpoints.
	RowLoss []float64

	// Notes is what the method wants said about this weight: damping that had
	// to be raised, a fallback. It is not stored in checkpoints.
	Notes []string
}

// NewWeight returns a weight with room for codes, scales and zero-points.
// The scheme must fit the shape (Scheme.CheckShape).
func NewWeight(out, in int, s Scheme) *Weight {
	w := new(Weight)
	w.Reset(out, in, s)
	return w
}

// Reset makes w a weight of a shape and scheme, as NewWeight does, in the
// memory that it has. What codes, scales and zero-points are then is undefined
// where there was such memory: all of it is to be written.
func (w *Weight) Reset(out, in int, s Scheme) {
	old := *w
	*w = Weight{Out: out, In: in, Scheme: s}
	lines, _ := s.Lines(out, in)
	n := lines * w.Groups()
	w.Scales = scratch.Slice(old.Scales, n)
	if s.Grid == nil {
		w.Zeros = scratch.Slice(old.Zeros, n)
	} else {
		w.Shifts = scratch.Slice(old.Shifts, n)
	}
	w.Codes = scratch.Slice(old.Codes, lines*w.WordsPerLine())
}

// Lines is the number of lines: Out for OC, In for IC.
func (w *Weight) Lines() int { n, _ := w.Scheme.Lines(w.Out, w.In); return n }

// LineLen is the number of weights in a line: In for OC, Out for IC.
func (w *Weight) LineLen() int { _, n := w.Scheme.Lines(w.Out, w.In); return n }

// Groups is the number of groups in a line.
func (w *Weight) Groups() int { return w.Scheme.Groups(w.LineLen()) }

// WordsPerLine is the number of 32-bit words that hold a line's codes.
func (w *Weight) WordsPerLine() int { return (w.LineLen()*w.Scheme.Bits + 31) / 32 }

// Group returns the group of position p of a line.
func (w *Weight) Group(p int) int {
	switch {
	case w.GroupIndex != nil:
		return int(w.GroupIndex[p])
	case w.Scheme.Strided:
		return p % w.Groups()
	}
	return p / w.Scheme.GroupLen(w.LineLen())
}

// Shift is the shift of group i, counted as in Scales: its zero-point for the
// uniform grid.
func (w *Weight) Shift(i int) float32 {
	if w.Shifts != nil {
		return w.Shifts[i]
	}
	return float32(w.Zeros[i])
}

// SetParams sets scales and shifts of the groups from i on, counted as in
// Scales.
func (w *Weight) SetParams(i int, scale, shift []float32) {
	copy(w.Scales[i:i+len(scale)], scale)
	if w.Shifts != nil {
		copy(w.Shifts[i:i+len(shift)], shift)
		return
	}
	for k, z := range shift {
		w.Zeros[i+k] = uint8(z)
	}
}

// SetLine packs the codes of line l.
func (w *Weight) SetLine(l int, codes []uint8) {
	n := w.WordsPerLine()
	kernel.PackBits(w.Codes[l*n:(l+1)*n], codes, w.Scheme.Bits)
}

// Line unpacks the codes of line l into dst, which has length LineLen.
func (w *Weight) Line(dst []uint8, l int) {
	n := w.WordsPerLine()
	kernel.UnpackBits(dst, w.Codes[l*n:(l+1)*n], w.Scheme.Bits, w.LineLen())
}

// Contiguous reports whether every group is a run of neighbours in its line.
func (w *Weight) Contiguous() bool { return w.GroupIndex == nil && !w.Scheme.Strided }

// DequantizeLine writes the weights of line l (without RowScale, InputScale
// and Columns) to dst. codes is scratch of length LineLen.
func (w *Weight) DequantizeLine(dst []float32, codes []uint8, l int) {
	w.ownLine(dst, codes, l)
	if len(w.Summands) == 0 {
		return
	}
	more := make([]float32, len(dst))
	for _, s := range w.Summands {
		s.ownLine(more, codes, l)
		for i, v := range more {
			dst[i] += v
		}
	}
}

// ownLine is DequantizeLine without Summands.
func (w *Weight) ownLine(dst []float32, codes []uint8, l int) {
	w.Line(codes, l)
	g := w.Groups()
	if w.Scheme.Grid != nil {
		w.gridValues(dst, codes, l)
		return
	}
	scales, zeros := w.Scales[l*g:(l+1)*g], w.Zeros[l*g:(l+1)*g]
	if w.Contiguous() {
		n := w.Scheme.GroupLen(len(dst))
		for k := range g {
			a, b := k*n, min((k+1)*n, len(dst))
			kernel.Dequant(dst[a:b], codes[a:b], scales[k], float32(zeros[k]))
		}
		return
	}
	for p := range dst {
		k := w.Group(p)
		dst[p] = scales[k] * (float32(codes[p]) - float32(zeros[k]))
	}
}

// gridValues is DequantizeLine for a Scheme.Grid.
func (w *Weight) gridValues(dst []float32, codes []uint8, l int) {
	g, n := w.Groups(), w.Scheme.GroupLen(len(dst))
	scale, shift := w.Scales[l*g:(l+1)*g], w.Shifts[l*g:(l+1)*g]
	if !w.Contiguous() {
		n = 1
		each := make([]float32, 2*len(dst))
		for p := range dst {
			k := w.Group(p)
			each[p], each[len(dst)+p] = scale[k], shift[k]
		}
		scale, shift = each[:len(dst)], each[len(dst):]
	}
	w.Scheme.Grid.Values(dst, codes, scale, shift, n)
}

// Dequantize returns the dense weight [Out, In].
func (w *Weight) Dequantize() *tensor.Matrix {
	lines, n := w.Lines(), w.LineLen()
	m := tensor.New(lines, n)
	codes := make([]uint8, n)
	for l := range lines {
		w.DequantizeLine(m.Row(l), codes, l)
	}
	if w.Scheme.Axis == IC {
		m = m.T()
	}
	for r := range m.Rows {
		row := m.Row(r)
		if w.RowScale != nil {
			f := w.RowScale[r]
			for j := range row {
				row[j] *= f
			}
		}
		if w.InputScale != nil {
			for j := range row {
				row[j] *= w.InputScale[j]
			}
		}
		for i, c := range w.Columns {
			row[c] = w.ColumnValues[i*w.Out+r]
		}
	}
	return m
}

// StorageBits is the number of bits the weight takes in a file that stores
// no more than it must: codes, scales, zero-points (asymmetric schemes), all of these for each of
// the Summands, row and input scales, a group index, and columns in 16 bits with their numbers.
func (w *Weight) StorageBits() int64 {
	bits := int64(w.Out) * int64(w.In) * int64(w.Scheme.Bits)
	bits += int64(w.Lines()) * GridOf(w.Scheme).ParamBits(w.Groups())
	bits *= int64(1 + len(w.Summands))
	bits += 16 * int64(len(w.RowScale)+len(w.InputScale))
	bits += 32*int64(len(w.GroupIndex)+len(w.Columns)) + 16*int64(len(w.ColumnValues))
	return bits
}

// Validate checks that the slices fit the shape and that every value is one
// the scheme allows. It is for weights that come from a file.
func (w *Weight) Validate() error {
	if err := w.Scheme.CheckShape(w.Out, w.In); err != nil {
		return err
	}
	lines, n, groups := w.Lines(), w.LineLen(), w.Groups()
	if len(w.Codes) != lines*w.WordsPerLine() {
		return fmt.Errorf("%d words of codes, want %d", len(w.Codes), lines*w.WordsPerLine())
	}
	if err := w.validateParams(lines, groups); err != nil {
		return err
	}
	if w.GroupIndex != nil {
		if len(w.GroupIndex) != n {
			return fmt.Errorf("%d entries in the group index, want %d", len(w.GroupIndex), n)
		}
		for p, g := range w.GroupIndex {
			if g < 0 || int(g) >= groups {
				return fmt.Errorf("group %d of position %d, want 0 to %d", g, p, groups-1)
			}
		}
	}
	for i, s := range w.Summands {
		if s.Out != w.Out || s.In != w.In || s.Scheme != w.Scheme || s.GroupIndex != nil || s.RowScale != nil || s.InputScale != nil || s.Summands != nil {
			return fmt.Errorf("summand %d is not of the weight's shape and scheme, or more than codes, scales and zero-points", i+1)
		}
		if err := s.Validate(); err != nil {
			return fmt.Errorf("summand %d: %w", i+1, err)
		}
	}
	if w.RowScale != nil && len(w.RowScale) != w.Out {
		return fmt.Errorf("%d row scales, want %d", len(w.RowScale), w.Out)
	}
	if w.InputScale != nil && len(w.InputScale) != w.In {
		return fmt.Errorf("%d input scales, want %d", len(w.InputScale), w.In)
	}
	for _, vs := range [][]float32{w.RowScale, w.InputScale} {
		for i, v := range vs {
			if !finite(v) {
				return fmt.Errorf("row or input scale %g of channel %d is not finite", v, i)
			}
		}
	}
	return w.validateColumns()
}

// validateColumns checks the columns in 16 bits.
func (w *Weight) validateColumns() error {
	if len(w.ColumnValues) != len(w.Columns)*w.Out {
		return fmt.Errorf("%d weights of %d columns, want %d a column", len(w.ColumnValues), len(w.Columns), w.Out)
	}
	last := int32(-1)
	for _, c := range w.Columns {
		if c <= last || int(c) >= w.In {
			return fmt.Errorf("column %d behind column %d, want them ascending and below %d", c, last, w.In)
		}
		last = c
	}
	for i, v := range w.ColumnValues {
		if !finite(v) || tensor.RoundF16(v) != v {
			return fmt.Errorf("weight %g of column %d, want a half float", v, w.Columns[i/w.Out])
		}
	}
	return nil
}

// validateParams checks scales, zero-points and shifts.
func (w *Weight) validateParams(lines, groups int) error {
	n := lines * groups
	second, count := "zero-points", len(w.Zeros)
	if w.Scheme.Grid != nil {
		second, count = "shifts", len(w.Shifts)
	}
	if len(w.Scales) != n || count != n {
		return fmt.Errorf("%d scales and %d %s, want %d", len(w.Scales), count, second, n)
	}
	if w.Scheme.Grid != nil && w.Zeros != nil || w.Scheme.Grid == nil && w.Shifts != nil {
		return errors.New("shifts and zero-points do not go together")
	}
	for i, z := range w.Zeros {
		if int(z) > w.Scheme.MaxCode() {
			return fmt.Errorf("zero-point %d of line %d, want at most %d", z, i/groups, w.Scheme.MaxCode())
		}
	}
	for i, v := range w.Scales {
		if !finite(v) {
			return fmt.Errorf("scale %g of line %d is not finite", v, i/groups)
		}
	}
	for i, v := range w.Shifts {
		if !finite(v) {
			return fmt.Errorf("shift %g of line %d is not finite", v, i/groups)
		}
	}
	return nil
}

func finite(v float32) bool { return v-v == 0 }
