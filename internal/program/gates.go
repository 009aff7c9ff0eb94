package program

import (
	"math"
	"strings"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/nn"
)

// Operations that multiply elements by others, beside gatedOp.

// gateOp multiplies heads by act of other heads, and with norm normalizes them:
// before that, or with last after it.
type gateOp struct {
	y, z    Heads
	act     Activation
	norm    *Norm
	last    bool
	gain    int  // parameter, or -1
	perHead bool // each head has its own part of the gain
}

func (o *gateOp) reads() []Reg  { return []Reg{o.y.Reg, o.z.Reg} }
func (o *gateOp) writes() []Reg { return []Reg{o.y.Reg} }

// GateNorm adds a gate with a norm whose gain is a vector for all heads together
// (perHead) or for each alike.
func (b *Builder) GateNorm(y, z Heads, path string, last, perHead bool) {
	width := y.Dim
	if perHead {
		width *= y.N
	}
	b.do(&gateOp{
		y: y, z: z, act: SiLU, norm: &Norm{Eps: b.eps}, last: last, perHead: perHead, gain: b.Param(path+".weight", width),
	})
}

// fold is there for a norm with a gain: gain and gate multiply by element, in any order.
func (o *gateOp) fold(p *Program, _ int) *Fold {
	if o.gain < 0 || !o.y.contiguous() || o.y.N*o.y.Dim != p.regs[o.y.Reg].width {
		return nil
	}
	f := &Fold{Into: strings.TrimSuffix(p.params[o.gain].path, ".weight"), Channels: o.y.Dim, Before: -1, vectors: []int{o.gain}}
	if o.perHead {
		f.Channels *= o.y.N
		return f
	}
	for j := range o.y.N * o.y.Dim {
		f.Share = append(f.Share, j%o.y.Dim)
	}
	return f
}

func (o *gateOp) run(x *exec) {
	y, z := x.reg(o.y.Reg), x.reg(o.z.Reg)
	gain := x.vector(max(o.gain, -1))
	x.rows(y.Rows, func(i int) {
		gate := make([]float32, o.y.Dim)
		for h := range o.y.N {
			row := y.Row(i)[o.y.at(h):][:o.y.Dim]
			copy(gate, z.Row(i)[o.z.at(h):])
			o.act.Apply(gate)
			if o.norm != nil && !o.last {
				o.norm.Apply(row, row, headPart(gain, h, o.y.Dim, o.perHead), nil)
			}
			for j, v := range gate {
				row[j] *= v
			}
			if o.norm != nil && o.last {
				o.norm.Apply(row, row, headPart(gain, h, o.y.Dim, o.perHead), nil)
			}
		}
	})
}

// Gate multiplies heads by act of other heads.
func (b *Builder) Gate(y, z Heads, act Activation) {
	b.do(&gateOp{y: y, z: z, act: act, gain: -1})
}

// multiplyOp is dst = a*b, columns of registers from an offset on, as wide as dst.
type multiplyOp struct {
	dst, a, b Reg
	aAt, bAt  int
}

// Multiply sets dst to the product of columns of two registers, those from the
// offsets on.
func (b *Builder) Multiply(dst, src1 Reg, at1 int, src2 Reg, at2 int) {
	b.do(&multiplyOp{dst: dst, a: src1, aAt: at1, b: src2, bAt: at2})
}

func (o *multiplyOp) reads() []Reg  { return []Reg{o.a, o.b} }
func (o *multiplyOp) writes() []Reg { return []Reg{o.dst} }

func (o *multiplyOp) run(x *exec) {
	dst, a, b := x.write(o.dst), x.reg(o.a), x.reg(o.b)
	x.rows(dst.Rows, func(i int) {
		d := dst.Row(i)
		u, v := a.Row(i)[o.aAt:], b.Row(i)[o.bAt:]
		for j := range d {
			d[j] = u[j] * v[j]
		}
	})
}

// clampedGateOp is gate = (up+1) * gate * sigmoid(alpha*gate), the gate limited from
// above and up from both sides.
type clampedGateOp struct {
	gate, up     Reg
	alpha, limit float64
}

// ClampedGate sets gate to (up+1) * gate * sigmoid(alpha*gate), the gate limited from
// above and up from both sides.
func (b *Builder) ClampedGate(gate, up Reg, alpha, limit float64) {
	b.do(&clampedGateOp{gate, up, alpha, limit})
}

func (o *clampedGateOp) reads() []Reg  { return []Reg{o.gate, o.up} }
func (o *clampedGateOp) writes() []Reg { return []Reg{o.gate} }

func (o *clampedGateOp) run(x *exec) {
	gate, up := x.reg(o.gate), x.reg(o.up)
	x.rows(gate.Rows, func(i int) {
		g, u := gate.Row(i), up.Row(i)
		for j := range g {
			g[j] = nn.ClampedGate(g[j], u[j], o.alpha, o.limit)
		}
	})
}

// xieluOp is xIELU (Huang and Schlag, arXiv 2411.13010), an activation with two
// learned numbers.
type xieluOp struct {
	reg                Reg
	positive, negative int // parameters of one element, before softplus
}

// XIELU applies xIELU in place; the paths are those of its two numbers.
func (b *Builder) XIELU(r Reg, positive, negative string) {
	b.do(&xieluOp{r, b.Param(positive, 1), b.Param(negative, 1)})
}

func (o *xieluOp) reads() []Reg  { return []Reg{o.reg} }
func (o *xieluOp) writes() []Reg { return []Reg{o.reg} }

func (o *xieluOp) run(x *exec) {
	act, m := o.function(x), x.reg(o.reg)
	x.rows(m.Rows, func(i int) { act.Apply(m.Row(i)) })
}

func (o *xieluOp) function(x *exec) nn.XIELU {
	return nn.NewXIELU(x.vector(o.positive)[0], x.vector(o.negative)[0])
}

// HeadGate is an nn.HeadGate whose tensors are parameters, -1 for none. Heads may share
// tensors: Row is the head's in Weight [heads, in] and Bias.
type HeadGate struct {
	nn.HeadGate
	Inner, InnerBias, Weight, Bias, Row int
}

// headGateOp multiplies parts of each row of dst by sigmoids of what src has there.
type headGateOp struct {
	dst, src Reg
	gates    []HeadGate
}

// HeadGates adds gates of parts of dst that depend on src.
func (b *Builder) HeadGates(dst, src Reg, gates ...HeadGate) { b.do(&headGateOp{dst, src, gates}) }

// Weigh multiplies dst by the sigmoid of one logit, the product of src with the
// vector of a path.
func (b *Builder) Weigh(dst, src Reg, path string) {
	g := HeadGate{nn.HeadGate{Width: b.Width(dst), Factor: 1}, -1, -1, b.Param(path, 1, b.Width(src)), -1, 0}
	b.HeadGates(dst, src, g)
}

func (o *headGateOp) reads() []Reg  { return []Reg{o.src, o.dst} }
func (o *headGateOp) writes() []Reg { return []Reg{o.dst} }

func (o *headGateOp) run(x *exec) {
	src, dst, gates := x.reg(o.src), x.reg(o.dst), o.loaded(x)
	x.rows(dst.Rows, func(i int) {
		for k := range gates {
			gates[k].Apply(dst.Row(i), src.Row(i))
		}
	})
}

func (o *headGateOp) loaded(x *exec) []nn.HeadGate {
	all := make([]nn.HeadGate, len(o.gates))
	for k, g := range o.gates {
		all[k] = g.HeadGate
		if g.Inner >= 0 {
			all[k].Inner, all[k].InnerBias = x.b.params[g.Inner], x.vector(g.InnerBias)
		}
		if g.Weight >= 0 {
			all[k].Weight = x.b.params[g.Weight].Row(g.Row)
		}
		if g.Bias >= 0 {
			all[k].Bias = x.vector(g.Bias)[g.Row]
		}
	}
	return all
}

// columnScaleOp multiplies parts of a register's columns, one after the other.
type columnScaleOp struct {
	reg     Reg
	widths  []int
	factors []float64
}

// ScaleColumns multiplies parts of a register's columns, one after the other, each
// by its factor.
func (b *Builder) ScaleColumns(r Reg, widths []int, factors []float64) {
	b.do(&columnScaleOp{r, widths, factors})
}

func (o *columnScaleOp) reads() []Reg  { return []Reg{o.reg} }
func (o *columnScaleOp) writes() []Reg { return []Reg{o.reg} }

func (o *columnScaleOp) run(x *exec) {
	m := x.reg(o.reg)
	x.rows(m.Rows, func(i int) {
		row := m.Row(i)
		for k, w := range o.widths {
			for j := range row[:w] {
				row[j] *= float32(o.factors[k])
			}
			row = row[w:]
		}
	})
}

// growOp multiplies heads by 1 + beta ln(1 + ⌊position/length⌋), so that
// attention stays sharp over long contexts.
type growOp struct {
	h      Heads
	beta   float64
	length int
}

// Grow multiplies heads by 1 + beta ln(1 + ⌊position/length⌋).
func (b *Builder) Grow(h Heads, beta float64, length int) { b.do(&growOp{h, beta, length}) }

func (o *growOp) reads() []Reg                  { return []Reg{o.h.Reg} }
func (o *growOp) writes() []Reg                 { return []Reg{o.h.Reg} }
func (o *growOp) leaves(r Reg, c0, c1 int) bool { return o.h.leaves(r, c0, c1) }

func (o *growOp) run(x *exec) {
	m := x.reg(o.h.Reg)
	x.rows(m.Rows, func(i int) {
		f := float32(1 + o.beta*math.Log1p(float64((x.f.before()+i%x.f.seqLen)/o.length)))
		for h := range o.h.N {
			kernel.Scale(m.Row(i)[o.h.at(h):][:o.h.Dim], f)
		}
	})
}
