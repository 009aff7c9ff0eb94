package program

import (
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

type normOp struct {
	dst, src   Reg
	spec       Norm
	path       string
	gain, bias int // parameters, or -1
}

func (o *normOp) reads() []Reg  { return []Reg{o.src} }
func (o *normOp) writes() []Reg { return []Reg{o.dst} }

func (o *normOp) run(x *exec) {
	src, dst := x.reg(o.src), x.write(o.dst)
	gain, bias := o.spec.GainOf(x.vector(o.gain)), x.vector(o.bias)
	x.rows(src.Rows, func(i int) { o.spec.Apply(dst.Row(i), src.Row(i), gain, bias) })
}

func (o *normOp) fold(p *Program, _ int) *Fold {
	if o.gain < 0 {
		return nil
	}
	f := &Fold{Into: o.path, Channels: p.regs[o.dst].width, Before: -1, PlusOne: o.spec.PlusOne, vectors: []int{o.gain}}
	if o.bias >= 0 {
		f.vectors = append(f.vectors, o.bias)
	}
	return f
}

type headNormOp struct {
	h          Heads
	spec       Norm
	gain, bias int
	perHead    bool
	gains      []int // of each head, where each is a tensor of its own
}

func (o *headNormOp) reads() []Reg                      { return []Reg{o.h.Reg} }
func (o *headNormOp) writes() []Reg                     { return []Reg{o.h.Reg} }
func (o *headNormOp) leaves(r Reg, c0, c1 int) bool     { return o.h.leaves(r, c0, c1) }
func (o *headNormOp) part(v []float32, h int) []float32 { return headPart(v, h, o.h.Dim, o.perHead) }

func headPart(v []float32, h, dim int, perHead bool) []float32 {
	if v == nil || !perHead {
		return v
	}
	return v[h*dim : (h+1)*dim]
}

func (o *headNormOp) run(x *exec) {
	m := x.reg(o.h.Reg)
	gain, bias := o.spec.GainOf(x.vector(o.gain)), x.vector(o.bias)
	x.rows(m.Rows, func(i int) {
		row := m.Row(i)
		for h := range o.h.N {
			head := row[o.h.at(h):][:o.h.Dim]
			g := o.part(gain, h)
			if o.gains != nil {
				g = o.spec.GainOf(x.vector(o.gains[h]))
			}
			o.spec.Apply(head, head, g, o.part(bias, h))
		}
	})
}

type linearOp struct {
	dst, src Reg
	linear   int
	add      bool
}

func (o *linearOp) reads() []Reg {
	if o.add {
		return []Reg{o.src, o.dst}
	}
	return []Reg{o.src}
}
func (o *linearOp) writes() []Reg { return []Reg{o.dst} }

func (o *linearOp) run(x *exec) {
	src := x.reg(o.src)
	x.r.linear(x.write(o.dst), src, &x.b.linears[o.linear], o.add, x.f.past != nil)
}

// rotateOp rotates pairs of elements of heads by their position (Su et al.,
// RoFormer, arXiv 2104.09864).
type rotateOp struct {
	h    Heads
	rope *Rope
}

func (o *rotateOp) reads() []Reg                  { return []Reg{o.h.Reg} }
func (o *rotateOp) writes() []Reg                 { return []Reg{o.h.Reg} }
func (o *rotateOp) leaves(r Reg, c0, c1 int) bool { return o.h.leaves(r, c0, c1) }

func (o *rotateOp) run(x *exec) {
	m := x.reg(o.h.Reg)
	before := x.f.before()
	t := x.r.table(o.rope, x.f.length())
	x.rows(m.Rows, func(i int) {
		row := m.Row(i)
		for h := range o.h.N {
			t.Rotate(row[o.h.at(h):][:o.h.Dim], before+i%x.f.seqLen)
		}
	})
}

// gatedOp is a gated linear unit (Shazeer, arXiv 2002.05202): dst = act(gate)*up,
// as wide as dst. Gate and up are registers of their own, or columns of one.
type gatedOp struct {
	act          Activation
	dst          Reg // may be gate
	gate, up     Reg
	gateAt, upAt int // first columns
}

func (o *gatedOp) reads() []Reg  { return []Reg{o.gate, o.up} }
func (o *gatedOp) writes() []Reg { return []Reg{o.dst} }

func (o *gatedOp) run(x *exec) {
	gate, up, dst := x.reg(o.gate), x.reg(o.up), x.write(o.dst)
	n := dst.Cols
	x.rows(dst.Rows, func(i int) {
		d, g, u := dst.Row(i), gate.Row(i)[o.gateAt:][:n], up.Row(i)[o.upAt:][:n]
		if o.act == SiLU {
			kernel.SiLUMul(d, g, u)
			return
		}
		copy(d, g)
		o.act.Apply(d)
		for j, v := range u {
			d[j] *= v
		}
	})
}

func (o *gatedOp) fold(p *Program, at int) *Fold {
	w := p.regs[o.dst].width
	l, row, ok := p.computedBy(o.up, o.upAt, o.upAt+w, at)
	if !ok {
		return nil
	}
	return &Fold{Into: p.Linears[l].Path, Channels: w, Before: l, Row0: row}
}

type activateOp struct {
	act Activation
	reg Reg
}

func (o *activateOp) reads() []Reg  { return []Reg{o.reg} }
func (o *activateOp) writes() []Reg { return []Reg{o.reg} }

func (o *activateOp) run(x *exec) {
	m := x.reg(o.reg)
	x.rows(m.Rows, func(i int) { o.act.Apply(m.Row(i)) })
}

// fold is there for ReLU alone: it keeps positive factors.
func (o *activateOp) fold(p *Program, at int) *Fold {
	w := p.regs[o.reg].width
	l, row, ok := p.computedBy(o.reg, 0, w, at)
	if !ok || o.act != ReLU {
		return nil
	}
	return &Fold{Into: p.Linears[l].Path, Channels: w, Before: l, Row0: row}
}

// copyOp is dst = src.
type copyOp struct{ dst, src Reg }

func (o *copyOp) reads() []Reg  { return []Reg{o.src} }
func (o *copyOp) writes() []Reg { return []Reg{o.dst} }
func (o *copyOp) run(x *exec)   { x.write(o.dst).CopyFrom(x.reg(o.src)) }

// addOp is dst += factor*src.
type addOp struct {
	dst, src Reg
	factor   float32
}

func (o *addOp) reads() []Reg  { return []Reg{o.src, o.dst} }
func (o *addOp) writes() []Reg { return []Reg{o.dst} }

func (o *addOp) run(x *exec) {
	dst, src := x.reg(o.dst), x.reg(o.src)
	x.rows(dst.Rows, func(i int) { kernel.Axpy(o.factor, src.Row(i), dst.Row(i)) })
}

type scaleOp struct {
	reg    Reg
	factor float32
}

func (o *scaleOp) reads() []Reg  { return []Reg{o.reg} }
func (o *scaleOp) writes() []Reg { return []Reg{o.reg} }

func (o *scaleOp) run(x *exec) {
	m := x.reg(o.reg)
	x.rows(m.Rows, func(i int) { kernel.Scale(m.Row(i), o.factor) })
}

// clipOp limits elements to [-limit, limit].
type clipOp struct {
	reg   Reg
	limit float32
}

func (o *clipOp) reads() []Reg  { return []Reg{o.reg} }
func (o *clipOp) writes() []Reg { return []Reg{o.reg} }

func (o *clipOp) run(x *exec) {
	m := x.reg(o.reg)
	x.rows(m.Rows, func(i int) {
		row := m.Row(i)
		for j, v := range row {
			row[j] = min(max(v, -o.limit), o.limit)
		}
	})
}

// linear computes dst = x Wᵀ + b, or with add dst += x Wᵀ + b. Single tokens in steps have products
// of their own, which are summed in another order.
func (r *Runner) linear(dst, x *tensor.Matrix, l *Linear, add, step bool) {
	if x.Rows == 0 {
		return
	}
	var beta float32
	if add {
		beta = 1
	}
	if r.Inputs != nil {
		x = r.Inputs(x)
	}
	switch {
	case l.Product != nil:
		l.Product.Times(dst, x, add, r.workers)
	case step && x.Rows <= tensor.Few:
		tensor.MulT(x, l.Weight, beta, dst, r.workers)
	case r.BF16:
		tensor.GemmBF16(false, true, 1, x, l.Weight, beta, dst, r.workers)
	default:
		tensor.Gemm(false, true, 1, x, l.Weight, beta, dst, r.workers)
	}
	if l.Bias == nil {
		return
	}
	r.Bands(dst.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			kernel.Axpy(1, l.Bias, dst.Row(i))
		}
	})
}
