package program

import (
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/tensor"
)

// ErrNoGradient is wrapped by the error about an operation through which no
// gradient goes back.
var ErrNoGradient = errors.New("no gradient goes back through it")

// reversible is an operation with a vector-Jacobian product.
type reversible interface {
	op
	// keeps are registers whose content before the operation back needs.
	keeps() []Reg
	// back turns the gradient of what was written into that of what was read. It
	// takes the gradient of a register that is written whole, changes that of one
	// that is written in place, and adds to those of the others.
	back(x *reverse)
}

// Reversible tells whether gradients go back through the block. The error wraps
// ErrNoGradient and names the operation.
func (p *Program) Reversible() error {
	for _, o := range p.ops {
		if _, ok := o.(reversible); ok {
			continue
		}
		what := fmt.Sprintf("%T", o)
		if n, ok := o.(interface{ what() string }); ok {
			what = n.what()
		}
		return fmt.Errorf("block %d (%s): %s: %w", p.Index, p.prefix, what, ErrNoGradient)
	}
	return nil
}

func (o *convOp) what() string        { return "convolution over tokens" }
func (o *SelectiveScan) what() string { return "selective scan (Mamba)" }
func (o *HeadScan) what() string      { return "state space (Mamba-2)" }
func (o *DeltaScan) what() string     { return "gated delta rule" }
func (o *DecayScan) what() string     { return "linear attention with decay" }

// Gradient is shown the gradient of a loss at the output of a linear layer,
// [rows, out], a row for each token that the layer sees, and if Backward was asked to
// keep them the layer's inputs x [rows, in]: gᵀx is the gradient of the weight. Both are
// valid only during the call and not to be changed.
type Gradient func(linear int, x, g *tensor.Matrix) error

// Backward runs the block on x [rows, hidden], whole windows of seqLen rows, which
// stays as it is, and then back: g [rows, hidden], the gradient of a loss at what
// leaves the block, becomes that at x. observe sees the gradients at the outputs of
// linear layers, last to first. Experts are those that the router takes; the
// gradient goes through their weights. The block must be Reversible; all versions
// of its registers that gradients need are in memory at once (see BackwardWidth), and
// with inputs those that linear layers read.
func (r *Runner) Backward(b *Block, x, g *tensor.Matrix, seqLen int, inputs bool, observe Gradient) error {
	if g.Rows != x.Rows || g.Cols != x.Cols {
		panic("program: gradient of another shape than the stream")
	}
	t := &tape{r: r, inputs: inputs, refs: map[*tensor.Matrix]int{x: 1}, kept: make([][]*tensor.Matrix, len(b.ops))}
	f := b.NewFrame(x, seqLen)
	t.forward(b, f)
	v := &reverse{exec: exec{r, b, f}, tape: t, rowCount: x.Rows, grads: make([]*tensor.Matrix, len(b.regs)), observe: observe}
	v.grads[Stream] = g
	err := v.run()
	if d := v.grads[Stream]; d == nil {
		g.Zero()
	} else if d != g {
		g.CopyFrom(d)
		v.grads[Stream] = nil
		r.Release(d)
	}
	for _, d := range v.grads[1:] {
		r.Release(d)
	}
	return err
}

// tape is what a forward pass leaves behind for the way back.
type tape struct {
	r      *Runner
	inputs bool                   // those of linear layers are kept
	kept   [][]*tensor.Matrix     // by operation, what it keeps
	refs   map[*tensor.Matrix]int // by content, how many operations keep it
}

// keeps is what an operation keeps.
func (t *tape) keeps(o op) []Reg {
	if l, ok := o.(*linearOp); ok && t.inputs {
		return []Reg{l.src}
	}
	return o.(reversible).keeps()
}

// forward runs all operations. A content that is kept is not overwritten: the
// register goes on in other memory.
func (t *tape) forward(b *Block, f *Frame) {
	x := &exec{t.r, b, f}
	for i, o := range b.ops {
		for _, g := range t.keeps(o) {
			m := x.reg(g)
			t.kept[i] = append(t.kept[i], m)
			t.refs[m]++
		}
		for _, g := range o.writes() {
			if m := x.reg(g); m != nil && t.refs[m] > 0 {
				c := t.r.Matrix(m.Rows, m.Cols)
				c.CopyFrom(m)
				if g == Stream {
					f.X = c
				} else {
					f.regs[g], f.mine[g] = c, true
				}
			}
		}
		o.run(x)
		for _, g := range b.free[i] {
			t.release(f.regs[g])
			f.regs[g], f.mine[g] = nil, false
		}
	}
	t.release(f.X)
	for g, m := range f.regs {
		t.release(m)
		f.regs[g], f.mine[g] = nil, false
	}
}

// release gives memory back that nothing keeps.
func (t *tape) release(m *tensor.Matrix) {
	if m != nil && t.refs[m] == 0 {
		delete(t.refs, m)
		t.r.Release(m)
	}
}

// reverse is the way back through a block.
type reverse struct {
	exec
	tape     *tape
	at       int              // the operation
	rowCount int              // of the batch
	grads    []*tensor.Matrix // by register; nil: no loss depends on it
	routed   []*tensor.Matrix // by router, of the weights of experts [rows, experts]
	observe  Gradient
	err      error
}

func (x *reverse) run() error {
	ops := x.b.ops
	for x.at = len(ops) - 1; x.at >= 0; x.at-- {
		o := ops[x.at].(reversible)
		if x.matters(o) && x.err == nil {
			o.back(x)
		}
		for _, m := range x.tape.kept[x.at] {
			x.tape.refs[m]--
			x.tape.release(m)
		}
	}
	return x.err
}

// matters reports whether a loss depends on what an operation writes.
func (x *reverse) matters(o op) bool {
	for _, g := range o.writes() {
		if x.grads[g] != nil {
			return true
		}
	}
	return len(o.writes()) == 0
}

// in is the content of a register before the operation, which it must keep.
func (x *reverse) in(g Reg) *tensor.Matrix {
	for i, k := range x.tape.keeps(x.b.ops[x.at]) {
		if k == g {
			return x.tape.kept[x.at][i]
		}
	}
	panic("program: content that was not kept")
}

// into is the gradient of a register, to be added to.
func (x *reverse) into(g Reg) *tensor.Matrix {
	if x.grads[g] == nil {
		d := x.f.p.regs[g]
		rows := x.rowCount
		if d.router >= 0 {
			rows = len(x.f.routes[d.router].rows[d.expert])
		}
		m := x.r.Matrix(rows, d.width)
		m.Zero()
		x.grads[g] = m
	}
	return x.grads[g]
}

// take is the gradient of a register whose content the operation has made: what was
// there before has none of it. It is to be given to done.
func (x *reverse) take(g Reg) *tensor.Matrix {
	m := x.grads[g]
	x.grads[g] = nil
	return m
}

func (x *reverse) done(m *tensor.Matrix) { x.r.Release(m) }

// BackwardWidth says how much Backward holds for each token at most, in elements,
// beside x and g: contents and gradients.
func (p *Program) BackwardWidth(inputs bool) int {
	t := &tape{inputs: inputs}
	var shares []float64 // of tokens that an expert gets, by router
	for _, o := range p.ops {
		if r, ok := o.(*routerOp); ok {
			shares = append(shares, float64(r.Top)/float64(r.Experts))
		}
	}
	width := func(g Reg) float64 {
		d := p.regs[g]
		if d.router >= 0 {
			return float64(d.width) * shares[d.router]
		}
		return float64(d.width)
	}
	var n float64
	kept := make([]bool, len(p.regs)) // what it holds is kept by an operation before
	kept[Stream] = true
	for i, o := range p.ops {
		if _, ok := o.(reversible); ok {
			for _, g := range t.keeps(o) {
				kept[g] = true
			}
		}
		for _, g := range o.writes() {
			if kept[g] || p.lastWriter(g, i) < 0 {
				n += width(g)
			}
			kept[g] = false
		}
	}
	for g := 1; g < len(p.regs); g++ {
		n += width(Reg(g))
	}
	return int(n)
}
