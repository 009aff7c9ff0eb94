package program

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

func (o *routerOp) keeps() []Reg { return []Reg{o.src} }

// back takes the experts as they are: the gradient is that of their weights.
func (o *routerOp) back(x *reverse) {
	g := x.weightsOf(o.id)
	if g == nil {
		return
	}
	src := x.in(o.src)
	scores := x.r.Matrix(src.Rows, o.Experts)
	tensor.Gemm(false, true, 1, src, x.b.params[o.weight], 0, scores, x.r.workers)
	shift, correction := x.vector(o.shift), x.vector(o.correction)
	x.rows(src.Rows, func(i int) {
		p := scores.Row(i)
		if shift != nil {
			kernel.Axpy(1, shift, p)
		}
		o.ChooseBack(p, correction, g.Row(i))
	})
	x.r.Release(scores)
	tensor.Gemm(false, false, 1, g, x.b.params[o.weight], 1, x.into(o.src), x.r.workers)
	x.routed[o.id] = nil
	x.r.Release(g)
}

// weightsOf is the gradient of a router's weights [rows, experts], nil if nothing
// depends on them.
func (x *reverse) weightsOf(router int) *tensor.Matrix {
	if router >= len(x.routed) {
		return nil
	}
	return x.routed[router]
}

func (o *gatherOp) keeps() []Reg { return nil }

func (o *gatherOp) back(x *reverse) {
	d := x.take(o.dst)
	at := x.f.p.regs[o.dst]
	g := x.into(o.src)
	for i, row := range x.f.routes[at.router].rows[at.expert] {
		kernel.Axpy(1, d.Row(i), g.Row(int(row)))
	}
	x.done(d)
}

func (o *scatterOp) keeps() []Reg { return []Reg{o.src} }

func (o *scatterOp) back(x *reverse) {
	src, d := x.in(o.src), x.grads[o.dst]
	at := x.f.p.regs[o.src]
	r := x.f.routes[at.router]
	for len(x.routed) <= at.router {
		x.routed = append(x.routed, nil)
	}
	weights := x.routed[at.router]
	if weights == nil {
		weights = x.r.Matrix(d.Rows, len(r.rows))
		weights.Zero()
		x.routed[at.router] = weights
	}
	g := x.into(o.src)
	for i, row := range r.rows[at.expert] {
		from := d.Row(int(row))
		kernel.Axpy(r.weights[at.expert][i], from, g.Row(i))
		var sum float64
		for j, v := range src.Row(i) {
			sum += float64(v) * float64(from[j])
		}
		weights.Row(int(row))[at.expert] += float32(sum)
	}
}

func (o *zeroOp) keeps() []Reg { return nil }

func (o *zeroOp) back(x *reverse) { x.done(x.take(o.dst)) }
