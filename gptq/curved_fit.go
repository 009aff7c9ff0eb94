package gptq

import (
	"context"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// gradient returns, for the outputs from r0 to r1, (O E H)ᵀ [in, r1-r0].
func (c *curved) gradient(r0, r1 int) *tensor.Matrix {
	p, q := tensor.New(c.in, r1-r0), tensor.New(c.in, r1-r0)
	tensor.Gemm(false, false, 1, c.e, c.o.View(0, c.n, r0, r1), 0, p, c.workers)
	tensor.Gemm(false, false, 1, c.r.h.h, p, 0, q, c.workers)
	return q
}

// rowFit finds the scales of a few rows.
type rowFit struct {
	*curved
	members [][]int        // positions of a group
	h       *tensor.Matrix // [in, in] rows of H, group by group
	r0, n   int            // the rows

	v, q *tensor.Matrix   // [in, n] slopes, and the gradient
	z    []*tensor.Matrix // by group, H v of its columns [in, n]
	a    []float64        // [groups, groups, n]
}

// fitRows is strip.fitRows row after row: with v_k the slopes of the codes of group
// k, a change δ of the scales of row r changes the loss by 2 gᵀδ + δᵀAδ,
// g_k = v_k · (O E H)_r, A_kh = O_rr v_k H v_hᵀ.
func (c *curved) fitRows(ctx context.Context) error {
	f := &rowFit{curved: c, members: c.members(1), h: tensor.New(c.in, c.in)}
	at := 0
	for _, m := range f.members {
		for _, j := range m {
			copy(f.h.Row(at), c.r.h.h.Row(j))
			at++
		}
	}
	for r0 := 0; r0 < c.n; r0 += turn {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.r0, f.n = r0, min(turn, c.n-r0)
		f.prepare()
		for i := range f.n {
			f.row(i)
		}
		c.refresh(r0, r0+f.n)
	}
	return nil
}

// prepare computes what the rows' problems are made of.
func (f *rowFit) prepare() {
	n, groups := f.n, f.groups
	f.q = f.gradient(f.r0, f.r0+n)
	f.v = tensor.New(f.in, n)
	for j, k := range f.groupOf {
		f.r.grid.Slopes(f.v.Row(j), f.codes[j*f.strip.n+f.r0:][:n], f.shift[k*f.strip.n+f.r0:][:n], 1)
	}
	f.z = make([]*tensor.Matrix, groups)
	f.a = make([]float64, groups*groups*n)
	at := 0
	for k, m := range f.members {
		vk := tensor.New(len(m), n)
		for i, j := range m {
			copy(vk.Row(i), f.v.Row(j))
		}
		f.z[k] = tensor.New(f.in, n)
		tensor.Gemm(true, false, 1, f.h.View(at, at+len(m), 0, f.in), vk, 0, f.z[k], f.workers)
		at += len(m)
		for j, h := range f.groupOf {
			if h >= k {
				kernel.MulAdd(f.a[(k*groups+h)*n:(k*groups+h+1)*n], f.v.Row(j), f.z[k].Row(j))
			}
		}
	}
}

// row solves for the scales of row i of those prepared, and brings the gradients of the
// rows after it up to date.
func (f *rowFit) row(i int) {
	n, groups, r := f.n, f.groups, f.r0+i
	o := f.o.Row(r)
	if !(o[r] > 0) {
		return
	}
	m, g, old := make([]float64, groups*groups), make([]float64, groups), make([]float32, groups)
	ofRow(m, f.a, groups, n, i)
	for k := range m {
		m[k] *= float64(o[r])
	}
	for k := range groups {
		for _, j := range f.members[k] {
			g[k] += float64(f.v.At(j, i)) * float64(f.q.At(j, i))
		}
		old[k] = f.scale[k*f.strip.n+r]
	}
	next := f.fit(m, g, old)
	if next == nil {
		return
	}
	change := make([]float32, f.in) // of (E H)_r
	for k, v := range next {
		f.scale[k*f.strip.n+r] = v
		d := v - old[k]
		if d == 0 {
			continue
		}
		for j := range change {
			change[j] += d * f.z[k].At(j, i)
		}
	}
	for j, d := range change {
		kernel.Axpy(d, o[f.r0:f.r0+n], f.q.Row(j))
	}
}

// fitBands is strip.fitBands band after band: A = H ∘ (Vᵀ O_bb V), g_j the sum over the
// band's rows of v_rj (O E H)_rj.
func (c *curved) fitBands(ctx context.Context) error {
	a, g := tensor.New(c.in, c.in), make([]float32, c.in)
	for b := range c.groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		r0, r1 := b*c.bandLen, min((b+1)*c.bandLen, c.n)
		q := c.gradient(r0, r1)
		v, ov := tensor.New(c.in, r1-r0), tensor.New(c.in, r1-r0)
		for j := range c.in {
			row := v.Row(j)
			c.r.grid.Slopes(row, c.codes[j*c.n+r0:j*c.n+r1], c.shift[j*c.groups+b:][:1], r1-r0)
			var sum float64
			for i, s := range row {
				sum += float64(s) * float64(q.At(j, i))
			}
			g[j] = float32(sum)
		}
		tensor.Gemm(false, false, 1, v, c.o.View(r0, r1, r0, r1), 0, ov, c.workers)
		tensor.Gemm(false, true, 1, ov, v, 0, a, c.workers)
		c.solveBand(b, a, g, c.workers)
		c.refresh(r0, r1)
	}
	return nil
}
