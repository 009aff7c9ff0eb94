package gptq

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

const (
	// Columns as one of which dynamic groups of axis OC see those before, as
	// in the published code.
	block = 128
	// Columns that correct each other one by one.
	subBlock = block / 8
	// Where there are no such, products are cut to whole tiles of the kernels.
	tiles = 96
)

// panel sweeps some outputs through all columns. Its memory is reused.
type panel struct {
	*solver
	r0, r1  int // places of outputs
	workers int

	t tensor.Matrix // [in, r1-r0] weights corrected for the errors so far
	e tensor.Matrix // [in, r1-r0] weights, dead columns 0; w - q where quantized

	deq   []float32 // of one column
	moved []float32 // columns on their way
	early earlyWeights
}

// earlyWeights are weights as of the start of a block, for dynamic grids.
type earlyWeights struct {
	u, e  tensor.Matrix // [end-begin, r1-r0]
	begin int           // position
}

// shape gives m the shape, its content undefined.
func shape(m *tensor.Matrix, rows, cols int) {
	if n := rows * cols; cap(m.Data) < n {
		m.Data = make([]float32, n)
	}
	m.Rows, m.Cols, m.Stride, m.Data = rows, cols, cols, m.Data[:rows*cols]
}

// run sweeps the outputs at places r0 to r1.
func (p *panel) run(sv *solver, r0, r1, workers int) error {
	p.solver, p.r0, p.r1, p.workers = sv, r0, r1, workers
	defer func() { p.solver = nil }() // the pool keeps the memory alone
	n := r1 - r0
	shape(&p.e, p.in, n)
	shape(&p.t, p.in, n)
	p.deq = resized(&p.deq, n)
	p.gather()
	copy(p.t.Data, p.e.Data)
	return p.sweep(&p.t, &p.e, 0, p.in, 0, p.column)
}

// gather fills e with the panel's weights.
func (p *panel) gather() {
	const tile = 256 // columns at a time
	n := p.r1 - p.r0
	at := make([]int, p.in) // column -> position
	for pos, c := range p.f.perm {
		at[c] = pos
	}
	p.moved = resized(&p.moved, tile*n)
	for c0 := 0; c0 < p.in; c0 += tile {
		c1 := min(c0+tile, p.in)
		if p.order == nil {
			w := p.w.Data[p.r0*p.w.Stride+c0:]
			kernel.Transpose(p.moved, n, w, p.w.Stride, n, c1-c0, 1)
		} else {
			for i := range n {
				for j, v := range p.w.Row(p.row(p.r0 + i))[c0:c1] {
					p.moved[j*n+i] = v
				}
			}
		}
		for c := c0; c < c1; c++ {
			if row := p.e.Row(at[c]); p.f.dead[c] {
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
// corrected for the errors of the first by one product: of all work but a
// hundredth is in large products.
func (p *panel) sweep(t, e *tensor.Matrix, a0, a1, base int, column func(pos int) error) error {
	n := a1 - a0
	large, small := tiles, tiles/8
	if p.dynamic && p.scheme.Axis == quant.OC {
		large, small = block, subBlock
	}
	if n <= small { // correct each other one by one
		for a := a1 - 1; a >= a0; a-- {
			if err := column(a); err != nil {
				return err
			}
			l, err := p.f.l.Row(a), e.Row(a-base)
			for b := a - 1; b >= a0; b-- {
				kernel.Axpy(l[b], err, t.Row(b-base))
			}
		}
		return nil
	}
	unit := small
	if n > large {
		unit = large
		if err := p.ctx.Err(); err != nil {
			return err
		}
	}
	mid := a1 - (n/2+unit-1)/unit*unit
	if err := p.sweep(t, e, mid, a1, base, column); err != nil {
		return err
	}
	done, next := e.View(mid-base, a1-base, 0, e.Cols), t.View(a0-base, mid-base, 0, t.Cols)
	tensor.Gemm(true, false, 1, p.f.l.View(mid, a1, a0, mid), done, 1, next, p.workers)
	return p.sweep(t, e, a0, mid, base, column)
}

// column quantizes the column at a position and leaves its error in e.
func (p *panel) column(a int) error {
	t, e := p.t.Row(a), p.e.Row(a)
	codes := p.codes[a*p.out+p.r0 : a*p.out+p.r1]
	var err error
	if p.scheme.Axis == quant.OC {
		err = p.columnOC(a, codes, t)
	} else {
		err = p.columnIC(a, codes, t)
	}
	if err != nil {
		return err
	}
	// The sweep's own loss is under the damped H; the damping's share of it
	// is taken off again.
	d, lambda := p.f.d[a], p.f.lambda
	if p.f.dead[p.f.perm[a]] {
		d, lambda = 0, 0
	}
	kernel.ErrorCols(e, p.loss[p.r0:p.r1], t, p.deq, d, lambda)
	return nil
}

// columnOC quantizes t, every element on the grid of its row.
func (p *panel) columnOC(a int, codes []uint8, t []float32) error {
	turn := p.in - 1 - a
	if p.dynamic {
		if turn%block == 0 {
			if err := p.lookAhead(a + 1); err != nil {
				return err
			}
		}
		if turn%p.groupLen() == 0 {
			if err := p.dynamicGrids(a); err != nil {
				return err
			}
		}
	}
	at := p.groupOf[a]*p.out + p.r0
	kernel.QuantCols(codes, p.deq, t, p.scale[at:at+len(t)], p.zero[at:at+len(t)], float32(p.scheme.MaxCode()))
	return nil
}

// columnIC quantizes t in groups.
func (p *panel) columnIC(a int, codes []uint8, t []float32) error {
	top := float32(p.scheme.MaxCode())
	line := p.f.perm[a]
	groups, g := p.gridded.Groups(), p.groupLen()
	for i := 0; i < len(t); i += g {
		j := min(i+g, len(t))
		k := (p.r0 + i) / g
		grid := quant.Grid{Scale: p.gridded.Scales[line*groups+k], Zero: p.gridded.Zeros[line*groups+k]}
		if p.dynamic {
			var err error
			if grid, err = p.scheme.Grid(t[i:j], nil); err != nil {
				return fmt.Errorf("input channel %d, group %d: %w", line, k, err)
			}
			p.gridded.Scales[line*groups+k], p.gridded.Zeros[line*groups+k] = grid.Scale, grid.Zero
		}
		kernel.QuantRow(codes[i:j], t[i:j], grid.Scale, float32(grid.Zero), top)
		kernel.Dequant(p.deq[i:j], codes[i:j], grid.Scale, float32(grid.Zero))
	}
	return nil
}

// lookAhead finds, for every group that starts in the block of positions
// that ends at a1, its weights as the columns before the block have left
// them: what GPTQ's weights are when it enters the block, and what the
// published code finds scales from. In this form of the sweep they follow by
// letting the columns of the block keep their corrected values instead of
// being quantized.
func (p *panel) lookAhead(a1 int) error {
	g, first, end := p.groupLen(), p.in-a1, min(p.in-a1+block, p.in) // turns of the block
	last := (end - 1) / g * g                                        // at which its last group starts
	if last < first {
		return nil
	}
	a0, begin := p.in-end, p.in-max(end, min(last+g, p.in))
	w := &p.early
	w.begin = begin
	shape(&w.u, a1-begin, p.r1-p.r0)
	shape(&w.e, a1-begin, p.r1-p.r0)
	w.u.View(a0-begin, a1-begin, 0, w.u.Cols).CopyFrom(p.t.View(a0, a1, 0, p.t.Cols))
	if begin < a0 { // these are not corrected yet
		u := w.u.View(0, a0-begin, 0, w.u.Cols)
		u.CopyFrom(p.e.View(begin, a0, 0, p.e.Cols))
		if a1 < p.in {
			tensor.Gemm(true, false, 1, p.f.l.View(a1, p.in, begin, a0), p.e.View(a1, p.in, 0, p.e.Cols), 1, u, p.workers)
		}
	}
	if a1 == p.in {
		return nil // nothing has been left yet
	}
	return p.sweep(&w.u, &w.e, begin, a1, begin, func(a int) error {
		e, u := w.e.Row(a-begin), w.u.Row(a-begin)
		for i, v := range p.e.Row(a) {
			e[i] = v - u[i]
		}
		return nil
	})
}

// dynamicGrids finds the grids of the group that starts at position a.
func (p *panel) dynamicGrids(a int) error {
	n := p.r1 - p.r0
	b := max(a+1-p.groupLen(), 0)
	g := a + 1 - b
	var importance []float32
	if p.scheme.ClipInput {
		importance = make([]float32, g)
		for i := range importance {
			c := p.f.perm[b+i]
			importance[i] = p.cal.H.At(c, c)
		}
	}
	p.moved = resized(&p.moved, n*g)
	u := p.early.u.View(b-p.early.begin, a+1-p.early.begin, 0, n)
	kernel.Transpose(p.moved, g, u.Data, u.Stride, g, n, 1)
	k, groups := p.groupOf[a], p.gridded.Groups()
	for i := range n {
		grid, err := p.scheme.Grid(p.moved[i*g:(i+1)*g], importance)
		if err != nil {
			return fmt.Errorf("output channel %d, group %d: %w", p.r0+i, k, err)
		}
		p.scale[k*p.out+p.r0+i], p.zero[k*p.out+p.r0+i] = grid.Scale, float32(grid.Zero)
		at := (p.r0+i)*groups + k
		p.gridded.Scales[at], p.gridded.Zeros[at] = grid.Scale, grid.Zero
	}
	return nil
}
