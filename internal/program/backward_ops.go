package program

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

func (o *normOp) keeps() []Reg { return []Reg{o.src} }

func (o *normOp) back(x *reverse) {
	src, dy := x.in(o.src), x.take(o.dst)
	dx, gain := x.into(o.src), o.spec.GainOf(x.vector(o.gain))
	x.rows(src.Rows, func(i int) { o.spec.Back(dx.Row(i), src.Row(i), dy.Row(i), gain) })
	x.done(dy)
}

func (o *headNormOp) keeps() []Reg { return []Reg{o.h.Reg} }

func (o *headNormOp) back(x *reverse) {
	src, g := x.in(o.h.Reg), x.grads[o.h.Reg]
	gain := o.spec.GainOf(x.vector(o.gain))
	x.rows(src.Rows, func(i int) {
		dx := make([]float32, o.h.Dim)
		for h := range o.h.N {
			at := o.h.at(h)
			part := o.part(gain, h)
			if o.gains != nil {
				part = o.spec.GainOf(x.vector(o.gains[h]))
			}
			clear(dx)
			dy := g.Row(i)[at:][:o.h.Dim]
			o.spec.Back(dx, src.Row(i)[at:][:o.h.Dim], dy, part)
			copy(dy, dx)
		}
	})
}

func (o *linearOp) keeps() []Reg { return nil }

func (o *linearOp) back(x *reverse) {
	dy := x.grads[o.dst]
	if !o.add {
		x.take(o.dst)
	}
	if x.observe != nil {
		var in *tensor.Matrix
		if x.tape.inputs {
			in = x.in(o.src)
		}
		x.err = x.observe(o.linear, in, dy)
	}
	if dy.Rows > 0 {
		tensor.Gemm(false, false, 1, dy, x.b.linears[o.linear].Weight, 1, x.into(o.src), x.r.workers)
	}
	if !o.add {
		x.done(dy)
	}
}

func (o *rotateOp) keeps() []Reg { return nil }

func (o *rotateOp) back(x *reverse) {
	g := x.grads[o.h.Reg]
	t := x.r.table(o.rope, x.f.seqLen)
	x.rows(g.Rows, func(i int) {
		for h := range o.h.N {
			t.RotateBack(g.Row(i)[o.h.at(h):][:o.h.Dim], i%x.f.seqLen)
		}
	})
}

func (o *gatedOp) keeps() []Reg { return []Reg{o.gate, o.up} }

func (o *gatedOp) back(x *reverse) {
	gate, up, d := x.in(o.gate), x.in(o.up), x.take(o.dst)
	dGate, dUp := x.into(o.gate), x.into(o.up)
	n := d.Cols
	x.rows(d.Rows, func(i int) {
		g, u := gate.Row(i)[o.gateAt:][:n], up.Row(i)[o.upAt:][:n]
		dg, du := dGate.Row(i)[o.gateAt:][:n], dUp.Row(i)[o.upAt:][:n]
		act := append([]float32(nil), g...)
		o.act.Apply(act)
		for j, v := range d.Row(i) {
			dg[j] += v * u[j] * o.act.Slope(g[j])
			du[j] += v * act[j]
		}
	})
	x.done(d)
}

func (o *activateOp) keeps() []Reg { return []Reg{o.reg} }

func (o *activateOp) back(x *reverse) {
	in, g := x.in(o.reg), x.grads[o.reg]
	x.rows(g.Rows, func(i int) {
		d := g.Row(i)
		for j, v := range in.Row(i) {
			d[j] *= o.act.Slope(v)
		}
	})
}

func (o *copyOp) keeps() []Reg { return nil }

func (o *copyOp) back(x *reverse) {
	d := x.take(o.dst)
	x.addRows(x.into(o.src), d, 1)
	x.done(d)
}

// addRows adds factor*d to g.
func (x *reverse) addRows(g, d *tensor.Matrix, factor float32) {
	x.rows(d.Rows, func(i int) { kernel.Axpy(factor, d.Row(i), g.Row(i)) })
}

func (o *addOp) keeps() []Reg { return nil }

func (o *addOp) back(x *reverse) { x.addRows(x.into(o.src), x.grads[o.dst], o.factor) }

func (o *scaleOp) keeps() []Reg { return nil }

func (o *scaleOp) back(x *reverse) {
	g := x.grads[o.reg]
	x.rows(g.Rows, func(i int) { kernel.Scale(g.Row(i), o.factor) })
}

func (o *clipOp) keeps() []Reg { return []Reg{o.reg} }

func (o *clipOp) back(x *reverse) {
	in, g := x.in(o.reg), x.grads[o.reg]
	x.rows(g.Rows, func(i int) {
		d := g.Row(i)
		for j, v := range in.Row(i) {
			if v < -o.limit || v > o.limit {
				d[j] = 0
			}
		}
	})
}

func (o *arrangeOp) keeps() []Reg { return nil }

func (o *arrangeOp) back(x *reverse) {
	d := x.take(o.dst)
	for _, h := range o.parts {
		x.into(h.Reg)
	}
	x.rows(d.Rows, func(i int) {
		row := d.Row(i)
		for _, h := range o.parts {
			g := x.grads[h.Reg].Row(i)
			for j := range h.N {
				kernel.Axpy(1, row[:h.Dim], g[h.at(j):][:h.Dim])
				row = row[h.Dim:]
			}
		}
	})
	x.done(d)
}

func (o *columnsOp) keeps() []Reg { return nil }

func (o *columnsOp) back(x *reverse) {
	d := x.take(o.dst)
	g := x.into(o.src)
	x.rows(d.Rows, func(i int) { kernel.Axpy(1, d.Row(i), g.Row(i)[o.at:][:d.Cols]) })
	x.done(d)
}

func (o *joinOp) keeps() []Reg { return nil }

func (o *joinOp) back(x *reverse) {
	d := x.take(o.dst)
	own, shared := x.into(o.own.Reg), x.into(o.shared.Reg)
	x.rows(d.Rows, func(i int) {
		row, r := d.Row(i), shared.Row(i)[o.shared.at(0):][:o.shared.Dim]
		for h := range o.own.N {
			kernel.Axpy(1, row[:o.own.Dim], own.Row(i)[o.own.at(h):][:o.own.Dim])
			row = row[o.own.Dim:]
			kernel.Axpy(1, row[:o.shared.Dim], r)
			row = row[o.shared.Dim:]
		}
	})
	x.done(d)
}
