package llmint8

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Linear multiplies activations by a weight in 8 bits with a scale a row, both in 8 bits
// where they are no outliers (W8A8, section 3 of arXiv 2208.07339, eq. 8):
//
//	X W ≈ Σ_{h in O} X_h W_h + S · Σ_{h not in O} X8_h W8_h
//
// O are the features in which any token of X reaches the threshold, and the columns that the
// weight keeps in 16 bits. A token is rounded by its largest magnitude below the threshold
// (as in bitsandbytes' int8_vectorwise_quant), and the integers are multiplied and summed
// exactly. In features of O the activations are half floats, and the weights those that
// are kept, or what the codes stand for, as in bitsandbytes. A Linear is safe for concurrent use.
type Linear struct {
	out, in   int
	codes     []int8    // [out, in]
	scales    []float32 // by row: a code stands for scale/127 times itself
	columns   map[int32][]float32
	threshold float32
}

// Fits reports whether NewLinear takes a weight of the scheme: 8 bits on Grid or symmetric,
// with a scale for each output.
func Fits(s quant.Scheme) bool {
	return s.Bits == 8 && s.Axis == quant.OC && s.GroupSize == quant.WholeLine && (s.Grid == Grid{} || s.Grid == nil && s.Symmetric)
}

// NewLinear takes a weight that Fits. Activations are outliers from threshold on; 0 means
// that there are none but in the columns that the weight keeps. It does not keep w.
func NewLinear(w *quant.Weight, threshold float32) (*Linear, error) {
	if !Fits(w.Scheme) || w.RowScale != nil || w.InputScale != nil || w.GroupIndex != nil {
		return nil, fmt.Errorf("%w: %d bits: products with activations in 8 bits need 8 bits with a scale a row", quant.ErrScheme, w.Scheme.Bits)
	}
	l := &Linear{out: w.Out, in: w.In, codes: make([]int8, w.Out*w.In), scales: slices.Clone(w.Scales), columns: map[int32][]float32{}, threshold: threshold}
	if w.Scheme.Grid == nil {
		for r := range l.scales {
			l.scales[r] *= most
		}
	}
	line := make([]uint8, w.In)
	for r := range w.Out {
		w.Line(line, r)
		for j, u := range line {
			l.codes[r*w.In+j] = int8(int(u) - middle)
		}
	}
	for i, c := range w.Columns {
		l.columns[c] = slices.Clone(w.ColumnValues[i*w.Out : (i+1)*w.Out])
	}
	return l, nil
}

// Times sets dst [tokens, out] to x Wᵀ for x [tokens, in], or adds it. Which features are
// outliers depends on all tokens of x.
func (l *Linear) Times(dst, x *tensor.Matrix, add bool, workers int) {
	if x.Cols != l.in || dst.Cols != l.out || dst.Rows != x.Rows {
		panic("llmint8: mismatched shapes")
	}
	half := tensor.New(x.Rows, x.Cols)
	parallel.Each(workers, x.Rows, func(_, i int) {
		eachHalf(x.Row(i), func(at int, h []float32) { copy(half.Row(i)[at:], h) })
	})
	apart := l.outliers(half)
	if !add {
		for i := range dst.Rows {
			clear(dst.Row(i))
		}
	}
	if len(apart) > 0 {
		tensor.Gemm(false, true, 1, pick(half, apart), l.sixteen(apart), 1, dst, workers)
	}
	scales := l.round(half, apart, workers) // half has codes from here on
	sums := make([]int32, x.Rows*l.out)
	l.multiply(sums, half, workers)
	parallel.Each(workers, x.Rows, func(_, i int) {
		row := dst.Row(i)
		for o, s := range sums[i*l.out : (i+1)*l.out] {
			row[o] += float32(s) * (scales[i] * l.scales[o]) * (inv * inv)
		}
	})
}

// outliers are the features that are multiplied in 16 bits, in ascending order.
func (l *Linear) outliers(x *tensor.Matrix) []int32 {
	is := make([]bool, x.Cols)
	for c := range l.columns {
		is[c] = true
	}
	for i := 0; l.threshold > 0 && i < x.Rows; i++ {
		for j, v := range x.Row(i) {
			is[j] = is[j] || v >= l.threshold || v <= -l.threshold
		}
	}
	var apart []int32
	for j, yes := range is {
		if yes {
			apart = append(apart, int32(j))
		}
	}
	return apart
}

// pick returns columns of x.
func pick(x *tensor.Matrix, columns []int32) *tensor.Matrix {
	m := tensor.New(x.Rows, len(columns))
	for i := range m.Rows {
		for k, c := range columns {
			m.Set(i, k, x.At(i, int(c)))
		}
	}
	return m
}

// sixteen are the weights of columns [out, columns].
func (l *Linear) sixteen(columns []int32) *tensor.Matrix {
	m := tensor.New(l.out, len(columns))
	for k, c := range columns {
		kept := l.columns[c]
		for o := range l.out {
			if kept != nil {
				m.Set(o, k, kept[o])
			} else {
				m.Set(o, k, float32(float32(l.codes[o*l.in+int(c)])*l.scales[o])*inv)
			}
		}
	}
	return m
}

// round replaces x by codes, those of the features apart by 0, and returns the scale of
// each token.
func (l *Linear) round(x *tensor.Matrix, apart []int32, workers int) []float32 {
	scales := make([]float32, x.Rows)
	parallel.Each(workers, x.Rows, func(_, i int) {
		row := x.Row(i)
		for c := range l.columns {
			row[c] = 0
		}
		for j, v := range row {
			a := max(v, -v)
			if l.threshold > 0 && a >= l.threshold {
				row[j] = 0
				continue
			}
			scales[i] = max(scales[i], a)
		}
		for _, c := range apart {
			row[c] = 0
		}
		by := factor(scales[i])
		for j, v := range row {
			row[j] = float32(code(v, by))
		}
	})
	return scales
}

// exactly is how many products of two codes a float32 sums up exactly, in any order: fewer
// than 2^24 / 128².
const exactly = 1 << 24 / (128 * 128)

// multiply adds the products of codes [tokens, in] with those of the weight to sums
// [tokens, out]. Sums of so few integers are exact in float32, which is what there are
// fast products for.
func (l *Linear) multiply(sums []int32, x *tensor.Matrix, workers int) {
	part := tensor.New(x.Rows, l.out)
	for j0 := 0; j0 < l.in; j0 += exactly {
		j1 := min(j0+exactly, l.in)
		w := tensor.New(l.out, j1-j0)
		parallel.Each(workers, l.out, func(_, o int) {
			row := w.Row(o)
			for k, c := range l.codes[o*l.in+j0 : o*l.in+j1] {
				row[k] = float32(c)
			}
		})
		tensor.Gemm(false, true, 1, x.View(0, x.Rows, j0, j1), w, 0, part, workers)
		for i, v := range part.Data {
			sums[i] += int32(v)
		}
	}
}
