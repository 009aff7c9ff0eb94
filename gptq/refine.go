package gptq

import (
	"context"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Refine says how much to improve a quantized weight. A round solves for the
// scales that fit the codes best under H, in the least-squares sense, stores
// them as the grid can, and then sweeps over the codes, moving each to the
// minimizer given all others.
type Refine struct {
	Rounds int `json:"rounds"` // 0 means no refinement
	Sweeps int `json:"sweeps"` // over the codes in a round; 0 means 2
}

// defaultSweeps is what Refine.Sweeps is if it is 0.
const defaultSweeps = 2

// DefaultRefine returns what is enough to converge on the models it was
// measured on: 3 rounds of 2 sweeps.
func DefaultRefine() Refine { return Refine{Rounds: 3, Sweeps: defaultSweeps} }

// Validate reports numbers that are negative. Errors wrap ErrOptions.
func (r Refine) Validate() error {
	if r.Rounds < 0 || r.Sweeps < 0 {
		return fmt.Errorf("%w: refinement of %d rounds of %d sweeps, want none negative", ErrOptions, r.Rounds, r.Sweeps)
	}
	return nil
}

// withDefaults spells out what 0 means.
func (r Refine) withDefaults() Refine {
	if r.Rounds == 0 {
		return Refine{}
	}
	if r.Sweeps == 0 {
		r.Sweeps = defaultSweeps
	}
	return r
}

// Improve lowers tr(E H Eᵀ), E = q - w, by changing scales and codes of q,
// any quantized weight of w [out, in] without row or input scales, on any
// grid. Zero-points and groups stay (the shifts of a quant.SpanFitter may not);
// so do the scales of groups of axis IC that store their parameters together. No output row (axis OC) and
// no band of rows that share groups (axis IC) gets worse. H is that of cal,
// [in, in]. q is not modified; with opt.Rounds 0 it is returned. Errors wrap
// ErrOptions or are ctx's.
//
// With cal.Output, O, what is lowered is tr(O E H Eᵀ), and it is the weight as a whole
// that does not get worse.
func Improve(ctx context.Context, w *tensor.Matrix, q *quant.Weight, cal *quant.Calibration, opt Refine, workers int) (*quant.Weight, error) {
	if q.RowScale != nil || q.InputScale != nil {
		panic("gptq: refinement of a weight with row or input scales")
	}
	if w.Rows != q.Out || w.Cols != q.In || cal.H.Rows != q.In {
		panic("gptq: refinement of mismatched shapes")
	}
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if opt = opt.withDefaults(); opt.Rounds == 0 {
		return q, nil
	}
	out := *q
	out.Codes = make([]uint32, len(q.Codes))
	out.Scales = append([]float32(nil), q.Scales...)
	out.Shifts = append([]float32(nil), q.Shifts...)
	out.RowLoss = make([]float64, q.Out)
	r := &refiner{
		opt: opt, grid: quant.GridOf(q.Scheme), w: w, src: q, dst: &out,
		h: refineOrder(cal, workers), order: outputOrder(q.Scheme, q.Out), codes: make([]uint8, q.In*q.Out),
		workers: parallel.Workers(workers), fitting: make(chan struct{}, fitters),
	}
	r.unpack(workers)
	if cal.Output != nil {
		if err := newCurved(r, cal.Output, parallel.Workers(workers)).run(ctx); err != nil {
			return nil, err
		}
		pack(&out, r.codes, r.h.perm, workers)
		return &out, nil
	}
	width := panelWidth(q.Scheme, q.Out)
	panels := (q.Out + width - 1) / width
	inner := max(1, parallel.Workers(workers)/panels)
	if err := parallel.For(ctx, workers, panels, func(p int) error {
		return newStrip(r, p*width, min((p+1)*width, q.Out), inner).run(ctx)
	}); err != nil {
		return nil, err
	}
	pack(&out, r.codes, r.h.perm, workers)
	return &out, nil
}

// ordered is H with its columns by descending diagonal.
type ordered struct {
	perm []int
	h    *tensor.Matrix
}

type orderedKey struct{}

func refineOrder(cal *quant.Calibration, workers int) *ordered {
	return cal.Memo(orderedKey{}, func() any {
		n := cal.H.Rows
		diag := make([]float32, n)
		for j := range diag {
			diag[j] = cal.H.At(j, j)
		}
		perm := factorKey{order: OrderActivation}.columns(diag)
		return &ordered{perm, reordered(cal.H, perm, workers)}
	}).(*ordered)
}

// reordered returns m with its rows and columns in the given order.
func reordered(m *tensor.Matrix, order []int, workers int) *tensor.Matrix {
	out := tensor.New(len(order), len(order))
	_ = parallel.For(context.Background(), workers, len(order), func(i int) error {
		src, dst := m.Row(order[i]), out.Row(i)
		for j, c := range order {
			dst[j] = src[c]
		}
		return nil
	})
	return out
}

// refiner holds a weight by position (columns by descending diagonal of H)
// and output (in an order in which groups of axis IC are neighbours).
type refiner struct {
	opt   Refine
	grid  quant.Grid
	w     *tensor.Matrix
	src   *quant.Weight
	dst   *quant.Weight
	h     *ordered
	order []int   // output by place; nil if they are the same
	codes []uint8 // [in, out]

	workers int
	fitting chan struct{} // a place for every strip that fits bands
}

func (r *refiner) unpack(workers int) {
	q := r.src
	n := q.LineLen()
	if q.Scheme.Axis == quant.IC {
		_ = parallel.For(context.Background(), workers, q.In, func(j int) error {
			line := r.codes[j*q.Out : (j+1)*q.Out]
			if r.order == nil {
				q.Line(line, r.h.perm[j])
				return nil
			}
			buf := make([]uint8, n)
			q.Line(buf, r.h.perm[j])
			for p, o := range r.order {
				line[p] = buf[o]
			}
			return nil
		})
		return
	}
	const tile = 64
	_ = parallel.For(context.Background(), workers, (q.Out+tile-1)/tile, func(b int) error {
		r0, r1 := b*tile, min((b+1)*tile, q.Out)
		lines := make([]uint8, (r1-r0)*n)
		for o := r0; o < r1; o++ {
			q.Line(lines[(o-r0)*n:(o-r0+1)*n], o)
		}
		for j, c := range r.h.perm {
			dst := r.codes[j*q.Out+r0 : j*q.Out+r1]
			for i := range dst {
				dst[i] = lines[i*n+c]
			}
		}
		return nil
	})
}

// strip is a panel of outputs at work.
type strip struct {
	r       *refiner
	in      int // columns
	r0, n   int // outputs
	oc      bool
	workers int

	// All [in, n]. Fitting takes g and delta for memory of its own.
	wt    *tensor.Matrix // weights
	e     *tensor.Matrix // error
	g     *tensor.Matrix // error times H: half the gradient; of a block, when a sweep comes to it
	delta *tensor.Matrix // what sweeps have changed

	codes        []uint8          // [in, n]
	scale, shift []float32        // OC: [groups, n]; IC: [in, bands]
	groups       int              // OC: groups of a row; IC: bands of the strip
	groupOf      []int            // OC: group by position
	bandLen      int              // IC: outputs in a band; OC: 1
	fitter       quant.SpanFitter // OC, of grids whose parameters are fitted span by span; else nil

	x, deq, spread []float32 // of a column
}

// run improves the strip and stores the units (rows or bands) that are better
// than they were: every step lowers the loss of every unit, but for rounding.
func (s *strip) run(ctx context.Context) error {
	codes, scale, shift := slices.Clone(s.codes), slices.Clone(s.scale), slices.Clone(s.shift)
	before := s.losses()
	for range s.r.opt.Rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case s.fitter != nil:
			s.fitSpans()
		case s.oc:
			s.fitRows()
		case s.r.grid.Span() == 1:
			s.fitBands()
			// Otherwise a band shares stored parameters with other bands, which
			// would have to be fitted with it: only the codes improve.
		}
		for k := range s.r.opt.Sweeps {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !s.sweep(k%2 == 1) {
				break
			}
		}
	}
	after := s.losses()
	for a := 0; a < s.n; a += s.bandLen {
		b := min(a+s.bandLen, s.n)
		if !(quant.Sum(after[a:b]) < quant.Sum(before[a:b])) {
			copy(after[a:b], before[a:b])
			s.restore(a, b, codes, scale, shift)
		}
	}
	s.store(after)
	return nil
}

func newStrip(r *refiner, r0, r1, workers int) *strip {
	q := r.src
	n, in := r1-r0, q.In
	s := &strip{r: r, in: in, r0: r0, n: n, oc: q.Scheme.Axis == quant.OC, workers: workers,
		wt: tensor.New(in, n), e: tensor.New(in, n), g: tensor.New(in, n), delta: tensor.New(in, n),
		codes: make([]uint8, in*n), bandLen: 1,
		x: make([]float32, n), deq: make([]float32, n), spread: make([]float32, 2*n)}
	for i := range n {
		row := r.w.Row(r.output(r0 + i))
		for j, c := range r.h.perm {
			s.wt.Data[j*n+i] = row[c]
		}
	}
	for j := range in {
		copy(s.codes[j*n:(j+1)*n], r.codes[j*q.Out+r0:j*q.Out+r1])
	}
	s.takeParams()
	// Where scales alone are fitted, each stored by itself, fitRows finds those of a
	// whole row together.
	if f, ok := r.grid.(quant.SpanFitter); ok && s.oc && (f.Span() > 1 || f.Shifted()) {
		s.fitter = f
	}
	s.refresh(0, n)
	return s
}

// members are the positions of each run of span groups of a row.
func (s *strip) members(span int) [][]int {
	members := make([][]int, (s.groups+span-1)/span)
	for j, k := range s.groupOf {
		members[k/span] = append(members[k/span], j)
	}
	return members
}

// takeParams copies the strip's scales and shifts from the weight.
func (s *strip) takeParams() {
	q, perm := s.r.src, s.r.h.perm
	groups := q.Groups()
	if s.oc {
		s.groups = groups
		s.groupOf = make([]int, s.in)
		for j, c := range perm {
			s.groupOf[j] = q.Group(c)
		}
		s.scale, s.shift = make([]float32, groups*s.n), make([]float32, groups*s.n)
		for i := range s.n {
			for k := range groups {
				at := (s.r0+i)*groups + k
				s.scale[k*s.n+i], s.shift[k*s.n+i] = q.Scales[at], q.Shift(at)
			}
		}
		return
	}
	s.bandLen = q.Scheme.GroupLen(q.Out)
	s.groups = (s.n + s.bandLen - 1) / s.bandLen
	s.scale, s.shift = make([]float32, s.in*s.groups), make([]float32, s.in*s.groups)
	for j, c := range perm {
		for b := range s.groups {
			at := c*groups + s.r0/s.bandLen + b
			s.scale[j*s.groups+b], s.shift[j*s.groups+b] = q.Scales[at], q.Shift(at)
		}
	}
}

func (r *refiner) output(place int) int {
	if r.order == nil {
		return place
	}
	return r.order[place]
}

// params returns scale and shift of every output at position j, until it is
// called again.
func (s *strip) params(j int) (scale, shift []float32) {
	if s.oc {
		k := s.groupOf[j] * s.n
		return s.scale[k : k+s.n], s.shift[k : k+s.n]
	}
	scale, shift = s.spread[:s.n], s.spread[s.n:]
	for i := range scale {
		b := j*s.groups + i/s.bandLen
		scale[i], shift[i] = s.scale[b], s.shift[b]
	}
	return scale, shift
}

// refresh sets the errors of the outputs from r0 to r1 to those of the codes and
// scales as they are.
func (s *strip) refresh(r0, r1 int) {
	for j := range s.in {
		s.refreshColumn(j, r0, r1)
	}
}

func (s *strip) refreshColumn(j, r0, r1 int) {
	scale, shift := s.params(j)
	e := s.e.Row(j)[r0:r1]
	s.r.grid.Values(e, s.codes[j*s.n+r0:j*s.n+r1], scale[r0:r1], shift[r0:r1], 1)
	for i, v := range s.wt.Row(j)[r0:r1] {
		e[i] -= v
	}
}

// losses computes g, and from it the loss by output.
func (s *strip) losses() []float64 {
	tensor.Gemm(false, false, 1, s.r.h.h, s.e, 0, s.g, s.workers)
	loss := make([]float64, s.n)
	for j := range s.in {
		kernel.MulAdd(loss, s.e.Row(j), s.g.Row(j))
	}
	return loss
}

// restore gives the outputs a to b, a whole unit, the codes, scales and shifts that
// they had.
func (s *strip) restore(a, b int, codes []uint8, scale, shift []float32) {
	for j := range s.in {
		copy(s.codes[j*s.n+a:j*s.n+b], codes[j*s.n+a:])
	}
	first, n, width := a, s.groups, s.n
	if !s.oc {
		first, n, width = a/s.bandLen, s.in, s.groups
	}
	for k := range n {
		s.scale[k*width+first], s.shift[k*width+first] = scale[k*width+first], shift[k*width+first]
	}
}

// store writes codes, scales and losses to the result.
func (s *strip) store(loss []float64) {
	q := s.r.src
	for j := range q.In {
		copy(s.r.codes[j*q.Out+s.r0:j*q.Out+s.r0+s.n], s.codes[j*s.n:(j+1)*s.n])
	}
	for i, l := range loss {
		s.r.dst.RowLoss[s.r.output(s.r0+i)] = max(l, 0)
	}
	groups := q.Groups()
	if s.oc {
		for i := range s.n {
			for k := range groups {
				at := (s.r0+i)*groups + k
				s.r.dst.Scales[at] = s.scale[k*s.n+i]
				if s.fitter != nil {
					s.r.dst.Shifts[at] = s.shift[k*s.n+i]
				}
			}
		}
		return
	}
	for j, c := range s.r.h.perm {
		copy(s.r.dst.Scales[c*groups+s.r0/s.bandLen:], s.scale[j*s.groups:(j+1)*s.groups])
	}
}

// sweep moves every code to the minimizer given all others, and reports whether
// any changed. It takes the columns by descending diagonal of H, and back the
// other way: the gradient of a block of columns is one product with the errors of
// all on the way there, and on the way back, which must follow, one with what has
// changed in the columns behind it. What those before it have changed was
// in the first.
func (s *strip) sweep(back bool) bool {
	blocks := (s.in + block - 1) / block
	work, moved := tensor.New(min(block, s.in), s.n), tensor.New(subBlock, s.n)
	changed := false
	for k := range blocks {
		if back {
			k = blocks - 1 - k
		}
		b0, b1 := k*block, min((k+1)*block, s.in)
		g := s.g.View(b0, b1, 0, s.n)
		if back {
			tensor.Gemm(false, false, 1, s.r.h.h.View(b0, b1, b0, s.in), s.delta.View(b0, s.in, 0, s.n), 1, g, s.workers)
		} else {
			tensor.Gemm(false, false, 1, s.r.h.h.View(b0, b1, 0, s.in), s.e, 0, g, s.workers)
		}
		now := work.View(0, b1-b0, 0, s.n)
		now.CopyFrom(g)
		changed = s.sweepBlock(b0, b1, now, moved, back) || changed
	}
	return changed
}

// sweepBlock moves the codes of columns b0 to b1, whose gradient is g: it is
// brought up to date by one product for every sub-block, and inside it column by
// column. moved is scratch.
func (s *strip) sweepBlock(b0, b1 int, g, moved *tensor.Matrix, back bool) bool {
	h := s.r.h.h
	subs := (b1 - b0 + subBlock - 1) / subBlock
	changed := false
	for k := range subs {
		if back {
			k = subs - 1 - k
		}
		s0, s1 := b0+k*subBlock, min(b0+(k+1)*subBlock, b1)
		for i := range s1 - s0 {
			j, rest := s0+i, [2]int{s0 + i + 1, s1} // and those that follow it
			if back {
				j, rest = s1-1-i, [2]int{s0, s1 - 1 - i}
			}
			d := moved.Row(j - s0)
			if !s.sweepColumn(j, d, g.Row(j-b0)) {
				clear(d)
				if !back {
					clear(s.delta.Row(j))
				}
				continue
			}
			changed = true
			if back {
				kernel.Axpy(1, d, s.delta.Row(j))
			} else {
				copy(s.delta.Row(j), d)
			}
			for m := rest[0]; m < rest[1]; m++ {
				kernel.Axpy(h.At(m, j), d, g.Row(m-b0))
			}
		}
		r0, r1 := s1, b1
		if back {
			r0, r1 = b0, s0
		}
		if r0 < r1 {
			tensor.Gemm(false, false, 1, h.View(r0, r1, s0, s1), moved.View(0, s1-s0, 0, s.n), 1, g.View(r0-b0, r1-b0, 0, s.n), 1)
		}
	}
	return changed
}

// sweepColumn moves the codes of column j, whose gradient is g, leaves in d by
// how much their values have changed, and reports whether any did. Without, d is
// of no meaning.
func (s *strip) sweepColumn(j int, d, g []float32) bool {
	hjj := s.r.h.h.At(j, j)
	if !(hjj > 0) {
		return false
	}
	scale, shift := s.params(j)
	e, w, x := s.e.Row(j), s.wt.Row(j), s.x
	for i := range x {
		x[i] = w[i] + e[i] - g[i]/hjj
	}
	s.r.grid.Round(s.codes[j*s.n:(j+1)*s.n], s.deq, x, scale, shift, 1)
	changed := false
	for i, v := range s.deq {
		v -= w[i]
		d[i] = v - e[i]
		changed = changed || d[i] != 0
		e[i] = v
	}
	return changed
}
