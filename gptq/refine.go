package gptq

import (
	"context"
	"fmt"
	"math"

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
// grid. Zero-points (shifts) and groups stay; so do the scales of groups of
// axis IC that store their parameters together. No output row (axis OC) and
// no band of rows that share groups (axis IC) gets worse. H is that of cal,
// [in, in]. q is not modified; with opt.Rounds 0 it is returned. Errors wrap
// ErrOptions or are ctx's.
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
	out.RowLoss = make([]float64, q.Out)
	r := &refiner{
		opt: opt, grid: quant.GridOf(q.Scheme), w: w, src: q, dst: &out,
		h: refineOrder(cal, workers), order: outputOrder(q.Scheme, q.Out), codes: make([]uint8, q.In*q.Out),
	}
	r.unpack(workers)
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
		o := &ordered{perm: factorKey{order: OrderActivation}.columns(diag), h: tensor.New(n, n)}
		_ = parallel.For(context.Background(), workers, n, func(i int) error {
			src, dst := cal.H.Row(o.perm[i]), o.h.Row(i)
			for j, c := range o.perm {
				dst[j] = src[c]
			}
			return nil
		})
		return o
	}).(*ordered)
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

	wt, e, eh    *tensor.Matrix // [in, n] weights, error, error times H
	codes        []uint8        // [in, n]
	scale, shift []float32      // OC: [groups, n]; IC: [in, bands]
	groups       int            // OC: groups of a row; IC: bands of the strip
	groupOf      []int          // OC: group by position
	bandLen      int            // IC: outputs in a band; OC: 1

	best      []float64 // loss by unit (row or band)
	bestCodes []uint8
	bestScale []float32
}

// run improves the strip and stores the best that was found.
func (s *strip) run(ctx context.Context) error {
	for range s.r.opt.Rounds {
		s.measure()
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case s.oc:
			s.fitRows()
		case s.r.grid.Span() == 1:
			s.fitBands()
			// Otherwise a band shares stored parameters with other bands, which
			// would have to be fitted with it: only the codes improve.
		}
		s.refreshError()
		for range s.r.opt.Sweeps {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !s.sweep() {
				break
			}
		}
	}
	s.measure()
	s.store()
	return nil
}

func newStrip(r *refiner, r0, r1, workers int) *strip {
	q := r.src
	n, in := r1-r0, q.In
	s := &strip{r: r, in: in, r0: r0, n: n, oc: q.Scheme.Axis == quant.OC, workers: workers,
		wt: tensor.New(in, n), e: tensor.New(in, n), eh: tensor.New(in, n),
		codes: make([]uint8, in*n), bandLen: 1}
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
	s.best = make([]float64, s.units())
	for u := range s.best {
		s.best[u] = math.Inf(1)
	}
	// The weight as given is the best until a loss is measured. None ever is
	// if H is not finite: the weight then stays as it was.
	s.bestCodes = append([]uint8(nil), s.codes...)
	s.bestScale = append([]float32(nil), s.scale...)
	s.refreshError()
	return s
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

func (s *strip) units() int { return (s.n + s.bandLen - 1) / s.bandLen }

// params returns scale and shift of every output at position j; buf is
// scratch of twice the strip's width.
func (s *strip) params(j int, buf []float32) (scale, shift []float32) {
	if s.oc {
		k := s.groupOf[j] * s.n
		return s.scale[k : k+s.n], s.shift[k : k+s.n]
	}
	scale, shift = buf[:s.n], buf[s.n:2*s.n]
	for i := range scale {
		b := j*s.groups + i/s.bandLen
		scale[i], shift[i] = s.scale[b], s.shift[b]
	}
	return scale, shift
}

// refreshError sets e to the error of the codes and scales as they are.
func (s *strip) refreshError() {
	buf := make([]float32, 2*s.n)
	for j := range s.in {
		scale, shift := s.params(j, buf)
		e, w := s.e.Row(j), s.wt.Row(j)
		s.r.grid.Values(e, s.codes[j*s.n:(j+1)*s.n], scale, shift, 1)
		for i, v := range w {
			e[i] -= v
		}
	}
}

// measure computes eh and keeps every unit that is better than ever before.
func (s *strip) measure() {
	for u, l := range s.losses(s.bandLen) {
		if !(l < s.best[u]) {
			continue
		}
		s.best[u] = l
		a, b := u*s.bandLen, min((u+1)*s.bandLen, s.n)
		for j := range s.in {
			copy(s.bestCodes[j*s.n+a:j*s.n+b], s.codes[j*s.n+a:j*s.n+b])
		}
		if s.oc {
			for k := range s.groups {
				s.bestScale[k*s.n+u] = s.scale[k*s.n+u]
			}
		} else {
			for j := range s.in {
				s.bestScale[j*s.groups+u] = s.scale[j*s.groups+u]
			}
		}
	}
}

// losses computes eh, and from it the loss of every run of n outputs.
func (s *strip) losses(n int) []float64 {
	tensor.Gemm(false, false, 1, s.r.h.h, s.e, 0, s.eh, s.workers)
	loss := make([]float64, (s.n+n-1)/n)
	for j := range s.in {
		eh := s.eh.Row(j)
		for i, v := range s.e.Row(j) {
			loss[i/n] += float64(v) * float64(eh[i])
		}
	}
	return loss
}

// store writes the best of every unit to the result.
func (s *strip) store() {
	q := s.r.src
	for j := range q.In {
		copy(s.r.codes[j*q.Out+s.r0:j*q.Out+s.r0+s.n], s.bestCodes[j*s.n:(j+1)*s.n])
	}
	groups := q.Groups()
	if s.oc {
		for i := range s.n {
			for k := range groups {
				s.r.dst.Scales[(s.r0+i)*groups+k] = s.bestScale[k*s.n+i]
			}
			s.r.dst.RowLoss[s.r0+i] = max(s.best[i], 0)
		}
		return
	}
	for j, c := range s.r.h.perm {
		copy(s.r.dst.Scales[c*groups+s.r0/s.bandLen:], s.bestScale[j*s.groups:(j+1)*s.groups])
	}
	s.rowLosses()
}

// rowLosses splits the best losses of bands by row.
func (s *strip) rowLosses() {
	copy(s.codes, s.bestCodes)
	copy(s.scale, s.bestScale)
	s.refreshError()
	for i, l := range s.losses(1) {
		s.r.dst.RowLoss[s.r.output(s.r0+i)] = max(l, 0)
	}
}

// sweep moves every code to the minimizer given all others, columns by
// descending diagonal of H, and reports whether any code changed. The
// gradient is brought up to date by one product for every block of columns
// and, inside it, by one for every sub-block.
func (s *strip) sweep() bool {
	in, n, h := s.in, s.n, s.r.h.h
	g := tensor.New(min(block, in), n)
	delta := tensor.New(subBlock, n)
	x, deq, buf := make([]float32, n), make([]float32, n), make([]float32, 2*n)
	changed := false
	for b0 := 0; b0 < in; b0 += block {
		b1 := min(b0+block, in)
		gb := g.View(0, b1-b0, 0, n)
		tensor.Gemm(false, false, 1, h.View(b0, b1, 0, in), s.e, 0, gb, s.workers)
		for s0 := b0; s0 < b1; s0 += subBlock {
			s1 := min(s0+subBlock, b1)
			for j := s0; j < s1; j++ {
				d := delta.Row(j - s0)
				hjj := h.At(j, j)
				if hjj <= 0 {
					clear(d)
					continue
				}
				scale, shift := s.params(j, buf)
				e, w, gj := s.e.Row(j), s.wt.Row(j), gb.Row(j-b0)
				for i := range x {
					x[i] = w[i] + e[i] - gj[i]/hjj
				}
				codes := s.codes[j*n : (j+1)*n]
				s.r.grid.Round(codes, deq, x, scale, shift, 1)
				for i, v := range deq {
					v -= w[i]
					d[i] = v - e[i]
					changed = changed || d[i] != 0
					e[i] = v
				}
				for k := j + 1; k < s1; k++ {
					kernel.Axpy(h.At(k, j), d, gb.Row(k-b0))
				}
			}
			if s1 < b1 {
				tensor.Gemm(false, false, 1, h.View(s1, b1, s0, s1), delta.View(0, s1-s0, 0, n), 1, gb.View(s1-b0, b1-b0, 0, n), 1)
			}
		}
	}
	return changed
}
