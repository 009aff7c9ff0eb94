package program

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/nn"
)

func (o *gateOp) keeps() []Reg { return []Reg{o.y.Reg, o.z.Reg} }

func (o *gateOp) back(x *reverse) {
	y, z, g := x.in(o.y.Reg), x.in(o.z.Reg), x.grads[o.y.Reg]
	dz := x.into(o.z.Reg)
	gain := x.vector(max(o.gain, -1))
	x.rows(y.Rows, func(i int) {
		n := o.y.Dim
		gate, dy, mid := make([]float32, n), make([]float32, n), make([]float32, n)
		for h := range o.y.N {
			in, raw := y.Row(i)[o.y.at(h):][:n], z.Row(i)[o.z.at(h):][:n]
			d, to := g.Row(i)[o.y.at(h):][:n], dz.Row(i)[o.z.at(h):][:n]
			part := headPart(gain, h, n, o.perHead)
			copy(gate, raw)
			o.act.Apply(gate)
			clear(dy)
			switch {
			case o.norm == nil:
				copy(mid, in)
			case o.last: // d becomes the gradient at the product
				for j, v := range gate {
					mid[j] = in[j] * v
				}
				o.norm.Back(dy, mid, d, part)
				copy(d, dy)
				copy(mid, in)
			default:
				o.norm.Apply(mid, in, part, nil)
			}
			for j, v := range d { // of mid * gate
				to[j] += v * mid[j] * o.act.Slope(raw[j])
				d[j] = v * gate[j]
			}
			if o.norm != nil && !o.last {
				clear(dy)
				o.norm.Back(dy, in, d, part)
				copy(d, dy)
			}
		}
	})
}

func (o *multiplyOp) keeps() []Reg { return []Reg{o.a, o.b} }

func (o *multiplyOp) back(x *reverse) {
	a, b, d := x.in(o.a), x.in(o.b), x.take(o.dst)
	da, db := x.into(o.a), x.into(o.b)
	x.rows(d.Rows, func(i int) {
		u, v := a.Row(i)[o.aAt:], b.Row(i)[o.bAt:]
		du, dv := da.Row(i)[o.aAt:], db.Row(i)[o.bAt:]
		for j, g := range d.Row(i) {
			du[j] += g * v[j]
			dv[j] += g * u[j]
		}
	})
	x.done(d)
}

func (o *clampedGateOp) keeps() []Reg { return []Reg{o.gate, o.up} }

func (o *clampedGateOp) back(x *reverse) {
	gate, up, g := x.in(o.gate), x.in(o.up), x.grads[o.gate]
	dUp := x.into(o.up)
	x.rows(g.Rows, func(i int) {
		a, u, d, du := gate.Row(i), up.Row(i), g.Row(i), dUp.Row(i)
		for j := range d {
			toGate, toUp := nn.ClampedGateSlopes(a[j], u[j], o.alpha, o.limit)
			du[j] += d[j] * toUp
			d[j] *= toGate
		}
	})
}

func (o *xieluOp) keeps() []Reg { return []Reg{o.reg} }

func (o *xieluOp) back(x *reverse) {
	act, in, g := o.function(&x.exec), x.in(o.reg), x.grads[o.reg]
	x.rows(g.Rows, func(i int) {
		d := g.Row(i)
		for j, v := range in.Row(i) {
			d[j] *= act.Slope(v)
		}
	})
}

func (o *headGateOp) keeps() []Reg { return []Reg{o.src, o.dst} }

func (o *headGateOp) back(x *reverse) {
	src, dst, g, gates := x.in(o.src), x.in(o.dst), x.grads[o.dst], o.loaded(&x.exec)
	dSrc := x.into(o.src)
	x.rows(g.Rows, func(i int) {
		for k := range gates {
			gates[k].Back(g.Row(i), dst.Row(i), src.Row(i), dSrc.Row(i))
		}
	})
}

func (o *columnScaleOp) keeps() []Reg { return nil }

func (o *columnScaleOp) back(x *reverse) {
	g := x.grads[o.reg]
	x.rows(g.Rows, func(i int) {
		row := g.Row(i)
		for k, w := range o.widths {
			kernel.Scale(row[:w], float32(o.factors[k]))
			row = row[w:]
		}
	})
}

func (o *growOp) keeps() []Reg { return nil }

func (o *growOp) back(x *reverse) {
	g := x.grads[o.h.Reg]
	x.rows(g.Rows, func(i int) {
		f := float32(1 + o.beta*math.Log1p(float64(i%x.f.seqLen/o.length)))
		for h := range o.h.N {
			kernel.Scale(g.Row(i)[o.h.at(h):][:o.h.Dim], f)
		}
	})
}
