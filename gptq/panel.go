package gptq

import (
	"context"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

const (
	// block is the number of columns between updates of the weights that
	// dynamic groups of axis OC are fitted to: a group sees the errors of the
	// columns before the block in which it starts, and none of later ones, as
	// in the published code.
	block = 128
	// subBlock is the number of columns that correct each other one by one; the
	// rest is done by products.
	subBlock = block / 8
	// tiles takes the place of block for all other sweeps, whose result does
	// not depend on it: a multiple of the height of the kernels' tiles.
	tiles = 96
)

// panel sweeps some outputs through all columns. Its memory is reused.
type panel struct {
	sv      *solver
	r0, r1  int // places of outputs
	workers int

	t tensor.Matrix // [in, r1-r0] weights corrected for the errors so far
	e tensor.Matrix // [in, r1-r0] weights, dead columns 0; w - q where quantized

	deq          []float32 // of one column
	moved        []float32 // columns on their way
	scale, shift []float32 // of some groups of a line
	early        earlyWeights
}

// earlyWeights are weights as of the start of a block, for dynamic grids.
type earlyWeights struct {
	u, e  tensor.Matrix // [end-begin, r1-r0]
	begin int           // position
}

// run sweeps the outputs at places r0 to r1.
func (p *panel) run(ctx context.Context, sv *solver, r0, r1, workers int) error {
	p.sv, p.r0, p.r1, p.workers = sv, r0, r1, workers
	defer func() { p.sv = nil }() // the pool keeps the memory alone
	n := r1 - r0
	scratch.Matrix(&p.e, sv.in, n)
	scratch.Matrix(&p.t, sv.in, n)
	p.deq = scratch.Slice(p.deq, n)
	p.gather()
	copy(p.t.Data, p.e.Data)
	return p.sweep(ctx, &p.t, &p.e, 0, sv.in, 0, func(pos int) error { return p.column(ctx, pos) })
}

// gather fills e with the panel's weights.
func (p *panel) gather() {
	const tile = 256 // columns at a time
	sv, n := p.sv, p.r1-p.r0
	at := make([]int, sv.in) // column -> position
	for pos, c := range sv.f.perm {
		at[c] = pos
	}
	p.moved = scratch.Slice(p.moved, tile*n)
	for c0 := 0; c0 < sv.in; c0 += tile {
		c1 := min(c0+tile, sv.in)
		if sv.order == nil {
			w := sv.w.Data[p.r0*sv.w.Stride+c0:]
			kernel.Transpose(p.moved, n, w, sv.w.Stride, n, c1-c0, 1)
		} else {
			for i := range n {
				for j, v := range sv.w.Row(sv.row(p.r0 + i))[c0:c1] {
					p.moved[j*n+i] = v
				}
			}
		}
		for c := c0; c < c1; c++ {
			if row := p.e.Row(at[c]); sv.f.dead[c] {
				clear(row)
			} else {
				copy(row, p.moved[(c-c0)*n:(c-c0+1)*n])
			}
		}
	}
}

// sweep calls column for the positions from a1-1 down to a0, whose rows of t
// are corrected for all positions from a1 on; before each call its row of t
// has been corrected for the positions just done. column leaves the error in
// e. Both matrices begin at position base.
//
// The positions are halved until they are few, and the second half is
// corrected for the errors of the first by one product: 99 % of the work is in
// large products.
func (p *panel) sweep(ctx context.Context, t, e *tensor.Matrix, a0, a1, base int, column func(pos int) error) error {
	n := a1 - a0
	large, small := tiles, tiles/8
	if p.sv.dynamic && p.sv.scheme.Axis == quant.OC {
		large, small = block, subBlock
	}
	if n <= small { // correct each other one by one
		for a := a1 - 1; a >= a0; a-- {
			if err := column(a); err != nil {
				return err
			}
			l, err := p.sv.f.l.Row(a), e.Row(a-base)
			for b := a - 1; b >= a0; b-- {
				kernel.Axpy(l[b], err, t.Row(b-base))
			}
		}
		return nil
	}
	unit := small
	if n > large {
		unit = large
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	mid := a1 - (n/2+unit-1)/unit*unit
	if err := p.sweep(ctx, t, e, mid, a1, base, column); err != nil {
		return err
	}
	done, next := e.View(mid-base, a1-base, 0, e.Cols), t.View(a0-base, mid-base, 0, t.Cols)
	tensor.Gemm(true, false, 1, p.sv.f.l.View(mid, a1, a0, mid), done, 1, next, p.workers)
	return p.sweep(ctx, t, e, a0, mid, base, column)
}

// column quantizes the column at a position and leaves its error in e.
func (p *panel) column(ctx context.Context, a int) error {
	sv := p.sv
	t, e := p.t.Row(a), p.e.Row(a)
	codes := sv.codes[a*sv.out+p.r0 : a*sv.out+p.r1]
	var err error
	if sv.scheme.Axis == quant.OC {
		err = p.columnOC(ctx, a, codes, t)
	} else {
		err = p.columnIC(a, codes, t)
	}
	if err != nil {
		return err
	}
	// The sweep's own loss is under the damped H; the damping's share of it
	// is taken off again.
	d, lambda := sv.f.d[a], sv.f.lambda
	if sv.f.dead[sv.f.perm[a]] {
		d, lambda = 0, 0
	}
	kernel.ErrorCols(e, sv.loss[p.r0:p.r1], t, p.deq, d, lambda)
	if d > 0 && sv.rows != nil {
		sv.rows.pass(e)
	}
	return nil
}

// columnOC quantizes t, every element with the parameters of its row.
func (p *panel) columnOC(ctx context.Context, a int, codes []uint8, t []float32) error {
	sv := p.sv
	turn := sv.in - 1 - a
	if sv.dynamic {
		if turn%block == 0 {
			if err := p.lookAhead(ctx, a+1); err != nil {
				return err
			}
		}
		if turn%sv.spanLen == 0 {
			if err := p.dynamicParams(a); err != nil {
				return err
			}
		}
	}
	at := sv.groupOf[a]*sv.out + p.r0
	p.round(a, codes, t, sv.scale[at:at+len(t)], sv.shift[at:at+len(t)], 1)
	return nil
}

// columnIC quantizes t in groups.
func (p *panel) columnIC(a int, codes []uint8, t []float32) error {
	sv := p.sv
	line, size := sv.f.perm[a], sv.groupLen
	first := p.r0 / size
	at, n := line*sv.gridded.Groups()+first, (len(t)+size-1)/size
	scale := sv.gridded.Scales[at : at+n]
	p.shift = scratch.Slice(p.shift, n)
	if sv.dynamic {
		if k, err := sv.grid.Fit(scale, p.shift, t, nil, size, sv.scheme.ClipRule()); err != nil {
			return fmt.Errorf("input channel %d, group %d: %w", line, first+k, err)
		}
		sv.gridded.SetParams(at, scale, p.shift)
	} else {
		for k := range p.shift {
			p.shift[k] = sv.gridded.Shift(at + k)
		}
	}
	p.round(a, codes, t, scale, p.shift, size)
	return nil
}

// round rounds the column at a position.
func (p *panel) round(a int, codes []uint8, t, scale, shift []float32, size int) {
	sv := p.sv
	if sv.rows == nil || sv.f.dead[sv.f.perm[a]] {
		sv.grid.Round(codes, p.deq, t, scale, shift, size)
		return
	}
	sv.rows.round(sv.grid, codes, p.deq, t, p.e.Row(a), scale, shift, size)
}

// lookAhead finds, for every span of groups that starts in the block of
// positions that ends at a1, its weights as the columns before the block have
// left them: what GPTQ's weights are when it enters the block, and what the
// published code finds scales from. In this form of the sweep they follow by
// letting the columns of the block keep their corrected values instead of
// being quantized.
func (p *panel) lookAhead(ctx context.Context, a1 int) error {
	in := p.sv.in
	g, first, end := p.sv.spanLen, in-a1, min(in-a1+block, in) // turns of the block
	last := (end - 1) / g * g                                  // at which its last span starts
	if last < first {
		return nil
	}
	a0, begin := in-end, in-max(end, min(last+g, in))
	w := &p.early
	w.begin = begin
	scratch.Matrix(&w.u, a1-begin, p.r1-p.r0)
	scratch.Matrix(&w.e, a1-begin, p.r1-p.r0)
	w.u.View(a0-begin, a1-begin, 0, w.u.Cols).CopyFrom(p.t.View(a0, a1, 0, p.t.Cols))
	if begin < a0 { // these are not corrected yet
		u := w.u.View(0, a0-begin, 0, w.u.Cols)
		u.CopyFrom(p.e.View(begin, a0, 0, p.e.Cols))
		if a1 < in {
			tensor.Gemm(true, false, 1, p.sv.f.l.View(a1, in, begin, a0), p.e.View(a1, in, 0, p.e.Cols), 1, u, p.workers)
		}
	}
	if a1 == in {
		return nil // nothing has been left yet
	}
	return p.sweep(ctx, &w.u, &w.e, begin, a1, begin, func(a int) error {
		e, u := w.e.Row(a-begin), w.u.Row(a-begin)
		for i, v := range p.e.Row(a) {
			e[i] = v - u[i]
		}
		return nil
	})
}

// dynamicParams finds the parameters of the groups of the span that starts at
// position a.
func (p *panel) dynamicParams(a int) error {
	sv, n := p.sv, p.r1-p.r0
	b := max(a+1-sv.spanLen, 0)
	g := a + 1 - b
	var importance []float32
	if sv.scheme.ClipInput {
		importance = make([]float32, g)
		for i := range importance {
			c := sv.f.perm[b+i]
			importance[i] = sv.cal.H.At(c, c)
		}
	}
	p.moved = scratch.Slice(p.moved, n*g)
	u := p.early.u.View(b-p.early.begin, a+1-p.early.begin, 0, n)
	kernel.Transpose(p.moved, g, u.Data, u.Stride, g, n, 1)
	several := sv.spanLen > sv.groupLen
	if several { // groups follow each other by turn, which is against the position
		slices.Reverse(importance)
	}
	first, groups := sv.groupOf[a], (g+sv.groupLen-1)/sv.groupLen
	p.scale, p.shift = scratch.Slice(p.scale, groups), scratch.Slice(p.shift, groups)
	for i := range n {
		x := p.moved[i*g : (i+1)*g]
		if several {
			slices.Reverse(x)
		}
		if k, err := sv.grid.Fit(p.scale, p.shift, x, importance, sv.groupLen, sv.scheme.ClipRule()); err != nil {
			return fmt.Errorf("output channel %d, group %d: %w", p.r0+i, first+k, err)
		}
		for k := range groups {
			at := (first+k)*sv.out + p.r0 + i
			sv.scale[at], sv.shift[at] = p.scale[k], p.shift[k]
		}
		sv.gridded.SetParams((p.r0+i)*sv.gridded.Groups()+first, p.scale, p.shift)
	}
	return nil
}
