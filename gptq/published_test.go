package gptq_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// published is GPTQ as published (arXiv 2210.17323, Algorithm 1, with the
// options of its code), in float64: an inverse, its Cholesky factor, and the
// error of each column spread over those to its right.
type published struct {
	s        quant.Scheme
	actOrder bool
	static   bool
	grouped  bool // whole groups by their largest diagonal, a short last one at the end
}

// fromTie is how far x is from being rounded the other way.
func fromTie(x float64) float64 { return math.Abs(x - math.Floor(x) - 0.5) }

// grid is the scale and zero-point of a group, by the rules of RTN.
func (p published) grid(x []float64) (scale, zero, doubt float64) {
	top := float64(p.s.MaxCode())
	lo, hi := slices.Min(x), slices.Max(x)
	round := func(v float64) float64 {
		if p.s.ScaleType == quant.F16 {
			return float64(tensor.RoundF16(float32(v)))
		}
		return v
	}
	switch {
	case p.s.Symmetric:
		a := max(-lo, hi)
		if a == 0 {
			a = 1
		}
		return round(2 * a / top), math.Exp2(float64(p.s.Bits - 1)), 0.5
	case p.s.Range == quant.RangeZero || p.s.Axis == quant.OC:
		lo, hi = min(lo, 0), max(hi, 0)
		if lo == hi {
			lo, hi = -1, 1
		}
	}
	scale = round(max(hi-lo, 1e-5) / top)
	return scale, min(max(math.RoundToEven(-lo/scale), 0), top), fromTie(-lo / scale)
}

// outcome is what the algorithm leaves behind.
type outcome struct {
	codes   []uint8   // [out, in]
	weights []float64 // [out, in], what the codes stand for
	doubt   []float64 // how far the choice of each code, and of its zero-point, was from a tie, in steps
	groupOf []int     // by column, axis OC
	order   []int     // columns as they were quantized
}

// order is that in which columns are quantized, in groups of g.
func (p published) order(diag []float64, g int) []int {
	perm := make([]int, len(diag))
	for j := range perm {
		perm[j] = j
	}
	if p.actOrder {
		slices.SortStableFunc(perm, func(a, b int) int { return cmp.Compare(diag[b], diag[a]) })
	}
	if p.grouped {
		largest := func(c int) float64 {
			k := c / g * g
			if k+g > len(diag) {
				return -1
			}
			return slices.Max(diag[k : k+g])
		}
		slices.SortStableFunc(perm, func(a, b int) int {
			return cmp.Or(cmp.Compare(largest(b), largest(a)), cmp.Compare(a/g, b/g), cmp.Compare(diag[b], diag[a]))
		})
	}
	return perm
}

// upper is the upper factor of the inverse of h, damped, in the order of perm.
func upper(t *testing.T, h *tensor.Matrix, diag []float64, perm []int) *mat.TriDense {
	in := len(diag)
	var mean float64
	for _, v := range diag {
		mean += v / float64(in)
	}
	damped := mat.NewSymDense(in, nil)
	for i := range in {
		for j := range i {
			damped.SetSym(i, j, float64(h.At(perm[i], perm[j])))
		}
		damped.SetSym(i, i, diag[perm[i]]+0.01*mean)
	}
	var chol, of mat.Cholesky
	var inverse mat.SymDense
	u := new(mat.TriDense)
	require.True(t, chol.Factorize(damped))
	require.NoError(t, chol.InverseTo(&inverse))
	require.True(t, of.Factorize(&inverse))
	of.UTo(u)
	return u
}

// quantizing is the algorithm at work on a weight.
type quantizing struct {
	published
	original *mat.Dense // without what is never seen
	weight   *mat.Dense // in the order of o.order, what is left of it
	u        *mat.TriDense
	g        int
	// of the rows, for the column that is quantized
	scale, zero, doubt []float64
	o                  outcome
}

func (p published) quantize(t *testing.T, w, h *tensor.Matrix) outcome {
	out, in := w.Rows, w.Cols
	g := p.s.GroupSize
	if _, length := p.s.Lines(out, in); g == quant.WholeLine {
		g = length
	}
	dead, diag := make([]bool, in), make([]float64, in)
	for j := range in {
		diag[j] = float64(h.At(j, j))
		if dead[j] = diag[j] == 0; dead[j] {
			diag[j] = 1
		}
	}
	perm := p.order(diag, g)
	q := &quantizing{published: p, original: mat.NewDense(out, in, nil), weight: mat.NewDense(out, in, nil), u: upper(t, h, diag, perm), g: g}
	for r := range out {
		for j := range in {
			if !dead[j] {
				q.original.Set(r, j, float64(w.At(r, j)))
			}
		}
		for i := range in {
			q.weight.Set(r, i, q.original.At(r, perm[i]))
		}
	}
	q.o = outcome{make([]uint8, out*in), make([]float64, out*in), make([]float64, out*in), make([]int, in), perm}
	q.scale, q.zero, q.doubt = make([]float64, out), make([]float64, out), make([]float64, out)
	q.run()
	return q.o
}

// run goes through the columns in blocks.
func (q *quantizing) run() {
	out, in := q.weight.Dims()
	const blocksize = 128
	for i1 := 0; i1 < in; i1 += blocksize {
		i2 := min(i1+blocksize, in)
		w1 := mat.DenseCopyOf(q.weight.Slice(0, out, i1, i2))
		errs := mat.NewDense(out, i2-i1, nil)
		for i := range i2 - i1 {
			q.grids(w1, i, i1+i)
			q.column(w1, errs, i1, i)
		}
		for j := i2; j < in; j++ {
			for r := range out {
				var sum float64
				for i := range i2 - i1 {
					sum += errs.At(r, i) * q.u.At(i1+i, j)
				}
				q.weight.Set(r, j, q.weight.At(r, j)-sum)
			}
		}
	}
}

// rows finds the grid of every row from columns of m.
func (q *quantizing) rows(m *mat.Dense, first, last int) {
	for r := range q.scale {
		x := make([]float64, last-first)
		for i := range x {
			x[i] = m.At(r, first+i)
		}
		q.scale[r], q.zero[r], q.doubt[r] = q.grid(x)
	}
}

// grids finds the grids for column i of a block, which is the at-th of all.
func (q *quantizing) grids(w1 *mat.Dense, i, at int) {
	out, in := q.weight.Dims()
	col := q.o.order[at]
	switch {
	case q.s.Axis == quant.IC:
		x := mat.Col(nil, i, w1)
		if q.static {
			x = mat.Col(nil, col, q.original)
		}
		for a := 0; a < out; a += q.g {
			b := min(a+q.g, out)
			s, z, d := q.grid(x[a:b])
			for r := a; r < b; r++ {
				q.scale[r], q.zero[r], q.doubt[r] = s, z, d
			}
		}
	case q.static:
		k := col / q.g
		q.o.groupOf[col] = k
		q.rows(q.original, k*q.g, min((k+1)*q.g, in))
	default:
		q.o.groupOf[col] = at / q.g
		if q.grouped {
			q.o.groupOf[col] = col / q.g
		}
		if at%q.g == 0 {
			q.rows(q.weight, at, min(at+q.g, in))
		}
	}
}

// column quantizes column i of the block that begins at i1.
func (q *quantizing) column(w1, errs *mat.Dense, i1, i int) {
	_, in := q.weight.Dims()
	at := i1 + i
	col, d, top := q.o.order[at], q.u.At(at, at), float64(q.s.MaxCode())
	for r, scale := range q.scale {
		v := w1.At(r, i)
		code := min(max(math.RoundToEven(v/scale)+q.zero[r], 0), top)
		q.o.codes[r*in+col] = uint8(code)
		q.o.doubt[r*in+col] = min(fromTie(v/scale), q.doubt[r])
		q.o.weights[r*in+col] = scale * (code - q.zero[r])
		e := (v - q.o.weights[r*in+col]) / d
		errs.Set(r, i, e)
		for k := i; k < errs.RawMatrix().Cols; k++ {
			w1.Set(r, k, w1.At(r, k)-e*q.u.At(at, i1+k))
		}
	}
}

// compare compares rows, unit of them at a time, up to the first column that
// differs, which must be a tie.
func compare(t *testing.T, want outcome, q *quant.Weight, unit, dead int) (units, astray, differ int) {
	got, weights := codes(q), q.Dequantize()
	for r0 := 0; r0 < q.Out; r0 += unit {
		units++
		first := math.Inf(1) // doubt of the first column to differ
		for _, j := range want.order {
			if j == dead {
				continue // any code of 0 will do
			}
			var doubt []float64
			for r := r0; r < min(r0+unit, q.Out); r++ {
				if i := r*q.In + j; got[i] != want.codes[i] {
					doubt = append(doubt, want.doubt[i])
				}
			}
			differ += len(doubt)
			if math.IsInf(first, 1) && doubt == nil {
				for r := r0; r < min(r0+unit, q.Out); r++ {
					require.InDelta(t, want.weights[r*q.In+j], weights.At(r, j), 2e-3, "row %d, column %d", r, j)
				}
			}
			if math.IsInf(first, 1) && doubt != nil {
				first = slices.Min(doubt)
				require.Less(t, first, 2e-3, "rows from %d on differ from column %d on", r0, j)
				astray++
			}
		}
	}
	return units, astray, differ
}

// The codes must be those of the published algorithm, for all its variants
// and beyond, but for the order of float operations: what is all but a tie
// may fall the other way and then changes what comes after it, in its row or,
// where scales are found on the way, in its band of rows.
func TestIsThePublishedAlgorithm(t *testing.T) {
	natural, group, static, dynamic := gptq.OrderNatural, gptq.OrderGroup, gptq.GroupsStatic, gptq.GroupsDynamic
	f32 := quant.F32
	for _, c := range []struct {
		out, in int
		q       gptq.Quantizer
		s       quant.Scheme
	}{
		{40, 300, gptq.Quantizer{}, quant.Scheme{Bits: 3, GroupSize: 64}},
		{40, 300, gptq.Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 64, Symmetric: true, ScaleType: f32}},
		{40, 300, gptq.Quantizer{Groups: dynamic}, quant.Scheme{Bits: 3, GroupSize: 64, ScaleType: f32}},
		{40, 300, gptq.Quantizer{Order: natural}, quant.Scheme{Bits: 3, GroupSize: 64, ScaleType: f32}},
		{40, 300, gptq.Quantizer{Order: natural}, quant.Scheme{Bits: 3, GroupSize: 100, ScaleType: f32}}, // groups astride blocks
		{40, 300, gptq.Quantizer{Order: natural}, quant.Scheme{Bits: 2, GroupSize: 200, ScaleType: f32, Symmetric: true}},
		{40, 300, gptq.Quantizer{Order: natural}, quant.Scheme{Bits: 3, GroupSize: quant.WholeLine}},
		{40, 300, gptq.Quantizer{Order: natural, Groups: static}, quant.Scheme{Bits: 3, GroupSize: 48}},
		{40, 300, gptq.Quantizer{Order: group}, quant.Scheme{Bits: 3, GroupSize: 64, ScaleType: f32}}, // and a short group
		{40, 300, gptq.Quantizer{Order: group}, quant.Scheme{Bits: 4, GroupSize: 100, Symmetric: true}},
		{40, 300, gptq.Quantizer{Order: group, Groups: static}, quant.Scheme{Bits: 3, GroupSize: 32}},
		{64, 300, gptq.Quantizer{}, quant.Scheme{Bits: 3, GroupSize: 8, Axis: quant.IC, ScaleType: f32}},
		{60, 300, gptq.Quantizer{Order: natural}, quant.Scheme{Bits: 3, GroupSize: 8, Axis: quant.IC, ScaleType: f32, Range: quant.RangePaper}},
		{40, 300, gptq.Quantizer{Order: natural, Groups: static}, quant.Scheme{Bits: 4, GroupSize: 32, Axis: quant.IC, Symmetric: true}},
		{40, 300, gptq.Quantizer{Groups: static}, quant.Scheme{Bits: 3, GroupSize: 16, Axis: quant.IC}},
		{100, 90, gptq.Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 32}},
		{100, 90, gptq.Quantizer{Groups: dynamic}, quant.Scheme{Bits: 2, GroupSize: 32, ScaleType: f32}},
		{100, 90, gptq.Quantizer{}, quant.Scheme{Bits: 4, GroupSize: 16, Axis: quant.IC, ScaleType: f32}},
		{100, 90, gptq.Quantizer{Groups: static, Order: natural}, quant.Scheme{Bits: 2, GroupSize: quant.WholeLine, Axis: quant.IC}},
	} {
		t.Run(fmt.Sprintf("%dx%d/%+v/%+v", c.out, c.in, c.q, c.s), func(t *testing.T) {
			const dead = 11 // an input that never comes
			rng := rand.New(rand.NewPCG(uint64(c.in), uint64(c.s.Bits)))
			x := correlated(rng, 2*c.in, c.in)
			for i := range x.Rows {
				x.Set(i, dead, 0)
			}
			w, cal := normal(rng, c.out, c.in), quant.NewCalibration(x, 1)
			p := published{s: c.s, actOrder: c.q.Order == gptq.OrderActivation, static: c.q.Groups == static, grouped: c.q.Order == group}
			if c.q.Groups == gptq.GroupsAuto {
				p.static = c.s.Axis == quant.OC && p.actOrder
			}
			want := p.quantize(t, w, cal.H)
			q := quantize(t, c.q, w, c.s, cal)
			unit := 1 // rows that depend on each other
			if c.s.Axis == quant.IC && !p.static {
				unit = c.s.GroupSize
			}
			units, astray, differ := compare(t, want, q, unit, dead)
			require.LessOrEqual(t, astray, max(1, units/8), "rows or bands that differ")
			if unit == 1 {
				require.LessOrEqual(t, float64(differ), 0.002*float64(len(want.codes)), "codes that differ")
			}
			t.Logf("%d codes differ, in %d of %d", differ, astray, units)
			if c.s.Axis == quant.OC {
				for j, k := range want.groupOf {
					require.Equal(t, k, q.Group(j), "group of column %d", j)
				}
				require.Equal(t, p.actOrder && !p.static, q.GroupIndex != nil, "a group index where it is needed")
			}
			loss, _ := rowLosses(w, q.Dequantize(), cal.H)
			for r, l := range q.RowLoss {
				require.InEpsilon(t, loss[r], l, 2e-3, "row %d", r)
			}
		})
	}
}
