package decoder

import "fmt"

// Builder puts a block's program together. Paths are those of tensors inside
// the block.
type Builder struct {
	// Index is the number of the block.
	Index int

	eps float64 // of norms that do not say theirs
	p   *Program
}

// NewBuilder returns a Builder of the index-th block, whose tensors' names begin
// with prefix. width is that of the residual stream; eps that of norms that do not
// say theirs.
func NewBuilder(index int, prefix string, width int, eps float64) *Builder {
	p := &Program{Index: index, prefix: prefix}
	p.regs = []register{{width: width, router: -1, expert: -1}}
	return &Builder{Index: index, eps: eps, p: p}
}

// Finish returns the program, its stages and the life of registers found.
func (b *Builder) Finish() (*Program, error) {
	if err := b.p.finish(); err != nil {
		return nil, err
	}
	return b.p, nil
}

func (b *Builder) do(o op) { b.p.ops = append(b.p.ops, o) }

// reg makes a register for all tokens.
func (b *Builder) reg(width int) reg { return b.like(stream, width) }

// like makes a register for the tokens of another.
func (b *Builder) like(r reg, width int) reg {
	n := b.p.regs[r]
	n.width = width
	b.p.regs = append(b.p.regs, n)
	return reg(len(b.p.regs) - 1)
}

// width is how wide a register is.
func (b *Builder) width(r reg) int { return b.p.regs[r].width }

// param adds a dense tensor.
func (b *Builder) param(path string, shape ...int) int {
	b.p.params = append(b.p.params, param{path: path, shape: shape})
	return len(b.p.params) - 1
}

// optional adds a dense tensor that may be missing.
func (b *Builder) optional(path string, shape ...int) int {
	i := b.param(path, shape...)
	b.p.params[i].optional = true
	return i
}

// norm normalizes a register into a new one. path is without ".weight".
func (b *Builder) norm(src reg, path string, s normSpec) reg {
	dst := b.like(src, b.width(src))
	b.do(b.normOp(dst, src, path, b.width(src), s))
	return dst
}

// normSelf normalizes a register in place.
func (b *Builder) normSelf(r reg, path string, s normSpec) {
	b.do(b.normOp(r, r, path, b.width(r), s))
}

func (b *Builder) normOp(dst, src reg, path string, width int, s normSpec) *normOp {
	o := &normOp{dst: dst, src: src, spec: s, path: path, gain: -1, bias: -1}
	if s.eps == 0 {
		o.spec.eps = b.eps
	}
	if !s.plain {
		o.gain = b.param(path+".weight", width)
	}
	if s.bias {
		o.bias = b.param(path+".bias", width)
	}
	return o
}

// headNorm normalizes each head by itself, in place; with perHead every head
// has its own gain: a matrix [heads, width of a head].
func (b *Builder) headNorm(h heads, path string, s normSpec, perHead bool) {
	shape := []int{h.dim}
	if perHead {
		shape = []int{h.n, h.dim}
	}
	o := &headNormOp{h: h, spec: s, gain: -1, bias: -1, perHead: perHead}
	if s.eps == 0 {
		o.spec.eps = b.eps
	}
	if !s.plain {
		o.gain = b.param(path+".weight", shape...)
	}
	if s.bias {
		o.bias = b.param(path+".bias", shape...)
	}
	b.do(o)
}

// headNorms normalizes each head by itself, in place, each with a gain that is
// a tensor of its own; path has the head's number for %d.
func (b *Builder) headNorms(h heads, path string, s normSpec) {
	o := &headNormOp{h: h, spec: s, gain: -1, bias: -1}
	if s.eps == 0 {
		o.spec.eps = b.eps
	}
	for i := range h.n {
		o.gains = append(o.gains, b.param(fmt.Sprintf(path, i)+".weight", h.dim))
	}
	b.do(o)
}

// linear adds a linear layer, out wide, into a new register.
func (b *Builder) linear(src reg, path string, out int, bias bool) reg {
	dst := b.like(src, out)
	b.linearTo(dst, src, path, bias, false)
	return dst
}

// addLinear adds a linear layer whose output is added to a register.
func (b *Builder) addLinear(dst, src reg, path string, bias bool) {
	b.linearTo(dst, src, path, bias, true)
}

func (b *Builder) linearTo(dst, src reg, path string, bias, add bool) {
	b.p.Linears = append(b.p.Linears, LinearInfo{
		Name: b.p.prefix + path, Path: path, Out: b.width(dst), In: b.width(src), Bias: bias,
	})
	b.do(&linearOp{dst: dst, src: src, linear: len(b.p.Linears) - 1, add: add})
}

// rotate applies rotary position embeddings to heads, in place; without r none.
func (b *Builder) rotate(h heads, r *Rope) {
	if r != nil {
		b.do(&rotateOp{h: h, rope: r})
	}
}

// attend adds attention; the result has the query heads side by side.
func (b *Builder) attend(s attention) reg {
	s.dst = b.like(s.q.reg, s.q.n*s.v.dim)
	if s.scale == 0 {
		s.scale = headScale(s.q.dim)
	}
	if s.sinkPath != "" {
		s.sinks = append(s.sinks, b.param(s.sinkPath, s.q.n))
	}
	b.do(&s)
	return s.dst
}

// gated sets gate to act(gate)*up and returns it.
func (b *Builder) gated(act activation, gate, up reg) reg {
	b.do(&gatedOp{act: act, dst: gate, gate: gate, up: up})
	return gate
}

// gatedHalves is gated with the gate in the first half of the columns of a
// register and the other factor in the second; the result is a register of half
// the width.
func (b *Builder) gatedHalves(act activation, r reg) reg {
	w := b.width(r) / 2
	dst := b.like(r, w)
	b.do(&gatedOp{act: act, dst: dst, gate: r, up: r, upAt: w})
	return dst
}

// activate applies an activation in place.
func (b *Builder) activate(act activation, r reg) reg {
	b.do(&activateOp{act: act, reg: r})
	return r
}

// twoLayerMLP is a linear, an activation and a linear; its output is added to dst.
func (b *Builder) twoLayerMLP(dst, h reg, in, out string, width int, act activation, bias bool) {
	b.addLinear(dst, b.activate(act, b.linear(h, in, width, bias)), out, bias)
}

// copied is a register with the content of another. Linears that read the
// residual stream as it is read a copy, so that a stage holds what they read
// whatever becomes of the stream.
func (b *Builder) copied(src reg) reg {
	dst := b.like(src, b.width(src))
	b.overwrite(dst, src)
	return dst
}

// overwrite copies src into dst.
func (b *Builder) overwrite(dst, src reg) { b.do(&copyOp{dst, src}) }

// clip limits the elements of a register to [-limit, limit]; 0 is no limit.
func (b *Builder) clip(r reg, limit float64) {
	if limit != 0 {
		b.do(&clipOp{reg: r, limit: float32(limit)})
	}
}

// add adds factor*src to dst.
func (b *Builder) add(dst, src reg, factor float64) {
	b.do(&addOp{dst: dst, src: src, factor: float32(factor)})
}

// scale multiplies a register.
func (b *Builder) scale(r reg, factor float64) {
	if factor != 1 {
		b.do(&scaleOp{reg: r, factor: float32(factor)})
	}
}

// heads are equal parts of a register's columns: one a head, or with groups so
// many side by side in each group.
type heads struct {
	reg       reg
	n, dim    int
	base      int // first column
	step      int // columns from head to head; 0 means dim
	group     int // heads in a group; 0: no groups
	groupStep int // columns from group to group
}

// whole is a register that heads of this width fill.
func (b *Builder) whole(r reg, dim int) heads { return heads{reg: r, n: b.width(r) / dim, dim: dim} }

// at is the first column of a head.
func (h heads) at(i int) int {
	step := h.step
	if step == 0 {
		step = h.dim
	}
	if h.group == 0 {
		return h.base + i*step
	}
	return h.base + i/h.group*h.groupStep + i%h.group*step
}

// contiguous tells whether the heads lie side by side.
func (h heads) contiguous() bool {
	return h.n == 1 || h.group == 0 && (h.step == 0 || h.step == h.dim)
}

// leaves reports whether the heads are apart from columns [c0, c1) of r.
func (h heads) leaves(r reg, c0, c1 int) bool {
	if r != h.reg {
		return true
	}
	for i := range h.n {
		if c := h.at(i); c < c1 && c+h.dim > c0 {
			return false
		}
	}
	return true
}

// absent names tensors that the configuration does not foresee: where they are
// there all the same they must be without effect.
func (b *Builder) absent(paths ...string) { b.p.absent = append(b.p.absent, paths...) }
