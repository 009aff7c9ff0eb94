// Package olive is OliVe (Guo et al., ISCA 2023, arXiv 2304.07493): outlier-victim pairs. Two
// neighbours share 2·Bits bits. Both are normal values, or one is an outlier of a
// larger range, and the other, its victim, is 0 and gives its code to say so.
//
// Normal values are int4 or flint4 at 4 bits and int8 at 8, all without the code
// 1000b or 10000000b, which marks the victim. Outliers are abfloat, floats without a
// zero whose least exponent is raised by a bias until they begin where the normal values end:
// E2M1 beside int4 (±12 … ±96) and flint4 (±24 … ±192), E4M3 beside int8 (±144 … ±2^15).
// A group has one scale, found by search for the least squared error (section 3.4).
//
// The public implementation (clevercool/ANT-Quantization, olive_quantization) has the same values
// at 4 bits, and at 8 bits outliers E2M5, of which the paper says E4M3. Of two
// outliers in a pair it keeps the left one, the paper and this package the larger.
package olive

import (
	"context"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Grid is the grid of a group: pairs along its line, under one scale. Its shift says what
// the normal values are: 0 for integers, 1 for flint4. Round, Values and Slopes see
// pairs only in runs; with size 1 every element is normal, so that methods which go
// element by element have no outliers. The grid is comparable.
type Grid struct {
	bits   int
	values Normal
}

var _ quant.Grid = Grid{}

// GridOf returns the grid of 4 or 8 bits; ok is false for others, and for flint of 8 bits.
func GridOf(bits int, n Normal) (g Grid, ok bool) {
	if bits == 8 && n == Adaptive {
		n = Int
	}
	return Grid{bits, n}, bits == 4 && normals.Check(n) == nil || bits == 8 && n == Int
}

// String is the grid's text, such as "olive4 adaptive".
func (g Grid) String() string { return fmt.Sprintf("olive%d %s", g.bits, g.values) }

// Named returns the grid of a text.
func Named(text string) (g Grid, ok bool) {
	for _, bits := range []int{4, 8} {
		for n := Adaptive; n <= Flint; n++ {
			if g, ok = GridOf(bits, n); ok && g.String() == text {
				return g, true
			}
		}
	}
	return Grid{}, false
}

// MarshalText implements quant.Grid.
func (g Grid) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// Bits implements quant.Grid.
func (g Grid) Bits() int { return g.bits }

// Span implements quant.Grid: every group stands alone.
func (g Grid) Span() int { return 1 }

// Normal is what the grid's normal values are.
func (g Grid) Normal() Normal { return g.values }

// Typed reports whether each group says what its normal values are.
func (g Grid) Typed() bool { return g.values == Adaptive }

// ParamBits implements quant.Grid: a half float a group, and a bit where the type of normal
// values is chosen.
func (g Grid) ParamBits(groups int) int64 {
	if g.Typed() {
		return 17 * int64(groups)
	}
	return 16 * int64(groups)
}

// shifts are the types of normal values that a group may have.
func (g Grid) shifts() []float32 {
	switch g.values {
	case Adaptive:
		return []float32{0, 1}
	case Flint:
		return []float32{1}
	}
	return []float32{0}
}

// kind is that of a group with this shift.
func (g Grid) kind(shift float32) *kind {
	switch {
	case g.bits == 8:
		return int8s
	case shift == 0:
		return kinds[0]
	}
	return kinds[1]
}

// Round implements quant.Grid.
func (g Grid) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	for i, a := 0, 0; a < len(x); i, a = i+1, a+size {
		b := min(a+size, len(x))
		var v []float32
		if values != nil {
			v = values[a:b]
		}
		g.kind(shift[i]).encode(codes[a:b], v, x[a:b], 1/scale[i])
		for j := range v {
			v[j] *= scale[i]
		}
	}
}

// Values implements quant.Grid.
func (g Grid) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	g.Slopes(dst, codes, shift, size)
	for i := range codes {
		dst[i] *= scale[i/size]
	}
}

// Slopes implements quant.Grid.
func (g Grid) Slopes(dst []float32, codes []uint8, shift []float32, size int) {
	for i, a := 0, 0; a < len(codes); i, a = i+1, a+size {
		b := min(a+size, len(codes))
		g.kind(shift[i]).decode(dst[a:b], codes[a:b])
	}
}

// Store implements quant.Grid.
func (g Grid) Store(scale []float32, want []float64) {
	for k, v := range want {
		if s, err := quant.F16.RoundScale(float32(v)); err == nil && v > 0 {
			scale[k] = s
		}
	}
}

// Fit implements quant.Grid: the search over thresholds. With ClipInputs errors count by importance;
// the other rules are the paper's, squared error.
func (g Grid) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	if size%2 != 0 && size < len(x) {
		return 0, fmt.Errorf("%w: groups of %d hold no whole pairs", quant.ErrScheme, size)
	}
	size = min(size, len(x))
	magnitudes := make([]float32, size)
	for k, a := 0, 0; a < len(x); k, a = k+1, a+size {
		b := min(a+size, len(x))
		run := x[a:b]
		var imp []float32
		if clip == quant.ClipInputs && importance != nil {
			imp = importance[a:b]
		}
		var m moments
		m.add(run)
		absolute(magnitudes, run)
		var err error
		scale[k], shift[k], err = g.search(m, func(c *kind, s float32, limit float64) float64 {
			return c.loss(magnitudes[:len(run)], imp, s, limit)
		})
		if err != nil {
			return k, err
		}
	}
	return 0, nil
}

// moments are what the search begins with.
type moments struct {
	n, sum, squares float64
	most            float64
}

func (m *moments) add(x []float32) {
	for _, v := range x {
		f := float64(v)
		m.n, m.sum, m.squares, m.most = m.n+1, m.sum+f, m.squares+f*f, max(m.most, math.Abs(f))
		if f-f != 0 {
			m.most = math.NaN()
		}
	}
}

// threshold is what lies three standard deviations from the mean (section 3.4).
func (m *moments) threshold() float64 {
	mean := m.sum / m.n
	deviation := math.Sqrt(max(0, m.squares/m.n-mean*mean) * m.n / max(1, m.n-1))
	return math.Abs(mean) + 3*deviation
}

// The thresholds that are tried, in hundredths of the first: the public code begins at 75, for
// whole channels; groups of few weights have less beyond them.
const firstFactor, lastFactor, stepFactor = 25, 250, 2

// search finds the threshold with the least loss, and with it the type of normal values. The
// threshold is the largest normal value.
func (g Grid) search(m moments, loss func(k *kind, scale float32, limit float64) float64) (scale, shift float32, err error) {
	if m.most-m.most != 0 {
		return 0, 0, quant.ErrNotFinite
	}
	least := math.Inf(1)
	shift = g.shifts()[0]
	if scale, err = quant.F16.RoundScale(float32(m.threshold()) / g.kind(shift).top); err != nil || m.most == 0 {
		return scale, shift, err
	}
	for _, s := range g.shifts() {
		k := g.kind(s)
		last := float32(0)
		for f := firstFactor; f < lastFactor; f += stepFactor {
			at, e := quant.F16.RoundScale(float32(m.threshold()*float64(f)/100) / k.top)
			if e != nil || at == last {
				continue
			}
			last = at
			if l := loss(k, at, least); l < least {
				least, scale, shift = l, at, s
			}
		}
	}
	return scale, shift, nil
}

// Quantizer rounds to the grid. It needs no calibration data; with some,
// Scheme.ClipInput weighs errors by the diagonal of H, unless there is one scale for all.
type Quantizer struct {
	// Normal is what the normal values are, at 4 bits.
	Normal Normal
	// PerTensor has one scale for the whole weight, as the paper's tables (section 5). It needs
	// Scheme.GroupSize quant.WholeLine: every line says the scale again.
	PerTensor bool
	Workers   int `json:"-"` // goroutines; 0 means GOMAXPROCS
}

var _ quant.Schemer = Quantizer{}

// NeedsCalibration implements quant.DataFree: it returns false.
func (q Quantizer) NeedsCalibration() bool { return false }

// NeedsPairs implements quant.Unpaired: it returns false.
func (q Quantizer) NeedsPairs() bool { return false }

// WithWorkers implements quant.Parallel.
func (q Quantizer) WithWorkers(n int) quant.Quantizer {
	q.Workers = n
	return q
}

// Validate implements quant.Validator.
func (q Quantizer) Validate() error { return normals.Check(q.Normal) }

// Memory implements quant.Sized.
func (q Quantizer) Memory(out, in int) int64 { return quant.Memory(quant.RTN{}, out, in) }

// SchemeFor implements quant.Schemer: the grid of s.Bits, with the groups of s. Errors wrap
// quant.ErrScheme.
func (q Quantizer) SchemeFor(s quant.Scheme) (quant.Scheme, error) {
	bad := func(format string, args ...any) (quant.Scheme, error) {
		return s, fmt.Errorf("%w: OliVe: %s", quant.ErrScheme, fmt.Sprintf(format, args...))
	}
	g, ok := GridOf(s.Bits, q.Normal)
	if own, is := s.Grid.(Grid); is {
		g = own
	}
	switch {
	case !ok:
		return bad("%d bits with normal values %s, want 4 bits, or 8 with int", s.Bits, q.Normal)
	case s.Grid != nil && s.Grid != g:
		return bad("its pairs are a grid of their own, and another is asked for; use format lowbit or dense")
	case s.Strided:
		return bad("pairs are neighbours in a group, and groups are strided")
	case s.GroupSize > 0 && s.GroupSize%2 != 0:
		return bad("groups of %d hold no whole pairs", s.GroupSize)
	case q.PerTensor && s.GroupSize != quant.WholeLine:
		return bad("one scale for the whole weight, and groups of %d: want %d", s.GroupSize, quant.WholeLine)
	case s.Range != 0 || s.MinZero != 0 || s.ScaleType != 0 && s.Grid == nil:
		return bad("its grid has half floats and no zero-points: range, scale type and least zero-point do not go with it")
	}
	return quant.Scheme{Bits: s.Bits, GroupSize: s.GroupSize, Axis: s.Axis, Clip: s.Clip, ClipInput: s.ClipInput, Grid: g}, nil
}

// Quantize implements quant.Quantizer. Errors are those of quant.RTN.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	s, err := q.SchemeFor(s)
	if err == nil {
		err = s.CheckShape(w.Rows, w.Cols)
	}
	if err != nil {
		return nil, err
	}
	if !q.PerTensor {
		return quant.RTN{Workers: q.Workers}.Quantize(ctx, w, s, cal)
	}
	m := w
	if s.Axis == quant.IC {
		m = w.T()
	}
	g := s.Grid.(Grid)
	var of moments
	magnitudes := tensor.New(m.Rows, m.Cols)
	for r := range m.Rows {
		of.add(m.Row(r))
		absolute(magnitudes.Row(r), m.Row(r))
	}
	var failed error
	scale, shift, err := g.search(of, func(k *kind, at float32, limit float64) float64 {
		lines := make([]float64, m.Rows)
		if e := parallel.For(ctx, q.Workers, m.Rows, func(r int) error {
			lines[r] = k.loss(magnitudes.Row(r), nil, at, limit)
			return nil
		}); e != nil {
			failed = e
		}
		return quant.Sum(lines)
	})
	if failed != nil {
		err = failed
	}
	if err != nil {
		return nil, err
	}
	out, codes := quant.NewWeight(w.Rows, w.Cols, s), make([]uint8, m.Cols)
	for r := range m.Rows {
		out.SetParams(r, []float32{scale}, []float32{shift})
		g.Round(codes, nil, m.Row(r), []float32{scale}, []float32{shift}, m.Cols)
		out.SetLine(r, codes)
	}
	return out, nil
}
