package gptq

import (
	"context"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// curved improves a weight under tr(O E H Eᵀ), O the curvature at the outputs. Rows
// depend on each other, so it is one strip that goes through them in order. With the
// other rows fixed, row r has the loss of a row under O_rr H, its gradient (O E H)_r.
type curved struct {
	*strip
	o *tensor.Matrix // [n, n] O by place, its diagonal 1 in the mean
	p *tensor.Matrix // [in, n] (O E)ᵀ, as of the last measure or of the sweep

	// The best that was seen.
	loss      float64
	bestCodes []uint8
	bestScale []float32
}

// newCurved prepares a refiner's weight.
func newCurved(r *refiner, o *tensor.Matrix, workers int) *curved {
	n := r.src.Out
	if o.Rows != n || o.Cols != n {
		panic("gptq: curvature of another number of outputs")
	}
	if r.order != nil {
		o = reordered(o, r.order, workers)
	} else {
		o = o.Clone()
	}
	c := &curved{strip: newStrip(r, 0, n, workers), o: o, loss: math.Inf(1)}
	c.p = c.delta
	c.bestCodes, c.bestScale = slices.Clone(c.codes), slices.Clone(c.scale)
	var mean float64
	for i := range n {
		mean += float64(o.At(i, i)) / float64(n)
	}
	f := float32(1)
	if mean > 0 {
		f = float32(1 / mean)
	}
	for i := range n {
		kernel.Scale(o.Row(i), f)
	}
	return c
}

// run is strip.run.
func (c *curved) run(ctx context.Context) error {
	for range c.r.opt.Rounds {
		c.measure()
		var err error
		switch {
		case c.oc:
			err = c.fitRows(ctx)
		case c.r.grid.Span() == 1:
			err = c.fitBands(ctx)
		}
		if err != nil {
			return err
		}
		for range c.r.opt.Sweeps {
			changed, err := c.sweep(ctx)
			if err != nil {
				return err
			}
			if !changed {
				break
			}
		}
	}
	c.measure()
	copy(c.codes, c.bestCodes)
	copy(c.scale, c.bestScale)
	c.refresh(0, c.n)
	c.store(c.losses())
	return nil
}

// measure keeps codes and scales if they are better than ever before.
func (c *curved) measure() {
	tensor.Gemm(false, false, 1, c.r.h.h, c.e, 0, c.g, c.workers)
	tensor.Gemm(false, false, 1, c.e, c.o, 0, c.p, c.workers)
	var loss float64
	for j := range c.in {
		eh := c.g.Row(j)
		for i, v := range c.p.Row(j) {
			loss += float64(v) * float64(eh[i])
		}
	}
	if loss < c.loss {
		c.loss = loss
		copy(c.bestCodes, c.codes)
		copy(c.bestScale, c.scale)
	}
}

// sweep moves every code to the minimizer given all others, columns by descending
// diagonal of H and inside them the outputs in order.
func (c *curved) sweep(ctx context.Context) (changed bool, err error) {
	in, n, h := c.in, c.n, c.r.h.h
	tensor.Gemm(false, false, 1, c.e, c.o, 0, c.p, c.workers)
	g := tensor.New(min(block, in), n)
	col := &curvedColumn{c: c, dp: make([]float32, n), codes: make([]uint8, turn)}
	for b0 := 0; b0 < in; b0 += block {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		b1 := min(b0+block, in)
		gb := g.View(0, b1-b0, 0, n)
		tensor.Gemm(false, false, 1, h.View(b0, b1, 0, in), c.p, 0, gb, c.workers)
		for j := b0; j < b1; j++ {
			if h.At(j, j) <= 0 || !col.sweep(j, gb.Row(j-b0)) {
				continue
			}
			changed = true
			kernel.Axpy(1, col.dp, c.p.Row(j))
			for k := j + 1; k < b1; k++ {
				kernel.Axpy(h.At(k, j), col.dp, gb.Row(k-b0))
			}
		}
	}
	return changed, nil
}

// turn is how many outputs are rounded at once: until one changes.
const turn = 32

// curvedColumn is the work on one column.
type curvedColumn struct {
	c     *curved
	dp    []float32 // [n] what the changes so far have made of the column of (O E)ᵀ
	codes []uint8   // [turn]
}

// sweep moves the codes of column j, whose gradient was g before, and reports whether
// any has changed.
func (t *curvedColumn) sweep(j int, g []float32) bool {
	c := t.c
	hjj := c.r.h.h.At(j, j)
	scale, shift := c.params(j)
	e, w := c.e.Row(j), c.wt.Row(j)
	codes := c.codes[j*c.n : (j+1)*c.n]
	clear(t.dp)
	changed := false
	for i0 := 0; i0 < c.n; {
		i1 := min(i0+turn, c.n)
		x, deq, next := c.x[:i1-i0], c.deq[:i1-i0], t.codes[:i1-i0]
		for k := range x {
			i := i0 + k
			if x[k] = w[i] + e[i]; c.o.At(i, i) > 0 {
				x[k] -= (g[i] + float32(hjj*t.dp[i])) / (c.o.At(i, i) * hjj)
			}
		}
		c.r.grid.Round(next, deq, x, scale[i0:i1], shift[i0:i1], 1)
		i0 = i1
		for k, u := range next {
			i := i1 - len(x) + k
			if u == codes[i] || c.o.At(i, i) <= 0 {
				continue
			}
			v := deq[k] - w[i]
			kernel.Axpy(v-e[i], c.o.Row(i), t.dp)
			codes[i], e[i] = u, v
			changed, i0 = true, i+1
			break
		}
	}
	return changed
}
