package program

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/rope"
)

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

// Reg makes a register for all tokens.
func (b *Builder) Reg(width int) Reg { return b.like(Stream, width) }

// like makes a register for the tokens of another.
func (b *Builder) like(r Reg, width int) Reg {
	n := b.p.regs[r]
	n.width = width
	b.p.regs = append(b.p.regs, n)
	return Reg(len(b.p.regs) - 1)
}

// Width is how wide a register is.
func (b *Builder) Width(r Reg) int { return b.p.regs[r].width }

// Param adds a dense tensor.
func (b *Builder) Param(path string, shape ...int) int {
	b.p.params = append(b.p.params, param{path: path, shape: shape})
	return len(b.p.params) - 1
}

// Optional adds a dense tensor that may be missing.
func (b *Builder) Optional(path string, shape ...int) int {
	i := b.Param(path, shape...)
	b.p.params[i].optional = true
	return i
}

// Norm normalizes a register into a new one. path is without ".weight".
func (b *Builder) Norm(src Reg, path string, s Norm) Reg {
	dst := b.like(src, b.Width(src))
	b.do(b.normOp(dst, src, path, b.Width(src), s))
	return dst
}

// NormSelf normalizes a register in place.
func (b *Builder) NormSelf(r Reg, path string, s Norm) {
	b.do(b.normOp(r, r, path, b.Width(r), s))
}

func (b *Builder) normOp(dst, src Reg, path string, width int, s Norm) *normOp {
	o := &normOp{dst: dst, src: src, spec: s, path: path, gain: -1, bias: -1}
	if s.Eps == 0 {
		o.spec.Eps = b.eps
	}
	if !s.Plain {
		o.gain = b.Param(path+".weight", width)
	}
	if s.Bias {
		o.bias = b.Param(path+".bias", width)
	}
	return o
}

// HeadNorm normalizes each head by itself, in place; with perHead every head
// has its own gain: a matrix [heads, width of a head].
func (b *Builder) HeadNorm(h Heads, path string, s Norm, perHead bool) {
	shape := []int{h.Dim}
	if perHead {
		shape = []int{h.N, h.Dim}
	}
	o := &headNormOp{h: h, spec: s, gain: -1, bias: -1, perHead: perHead}
	if s.Eps == 0 {
		o.spec.Eps = b.eps
	}
	if !s.Plain {
		o.gain = b.Param(path+".weight", shape...)
	}
	if s.Bias {
		o.bias = b.Param(path+".bias", shape...)
	}
	b.do(o)
}

// HeadNorms normalizes each head by itself, in place, each with a gain that is
// a tensor of its own; path has the head's number for %d.
func (b *Builder) HeadNorms(h Heads, path string, s Norm) {
	o := &headNormOp{h: h, spec: s, gain: -1, bias: -1}
	if s.Eps == 0 {
		o.spec.Eps = b.eps
	}
	for i := range h.N {
		o.gains = append(o.gains, b.Param(fmt.Sprintf(path, i)+".weight", h.Dim))
	}
	b.do(o)
}

// Linear adds a linear layer, out wide, into a new register.
func (b *Builder) Linear(src Reg, path string, out int, bias bool) Reg {
	dst := b.like(src, out)
	b.linearTo(dst, src, path, bias, false)
	return dst
}

// AddLinear adds a linear layer whose output is added to a register.
func (b *Builder) AddLinear(dst, src Reg, path string, bias bool) {
	b.linearTo(dst, src, path, bias, true)
}

func (b *Builder) linearTo(dst, src Reg, path string, bias, add bool) {
	b.p.Linears = append(b.p.Linears, LinearInfo{
		Name: b.p.prefix + path, Path: path, Out: b.Width(dst), In: b.Width(src), Bias: bias,
	})
	b.do(&linearOp{dst: dst, src: src, linear: len(b.p.Linears) - 1, add: add})
}

// Rope is a rotary position embedding.
type Rope = rope.Rope

// RopeScaling changes the frequencies of a Rope.
type RopeScaling = rope.Scaling

// Rotate applies rotary position embeddings to heads, in place; without r none.
func (b *Builder) Rotate(h Heads, r *Rope) {
	if r != nil {
		b.do(&rotateOp{h: h, rope: r})
	}
}

// Attend adds attention; the result has the query heads side by side.
func (b *Builder) Attend(s Attention) Reg {
	s.dst = b.like(s.Q.Reg, s.Q.N*s.V.Dim)
	if s.Scale == 0 {
		s.Scale = HeadScale(s.Q.Dim)
	}
	if s.SinkPath != "" {
		s.sinks = append(s.sinks, b.Param(s.SinkPath, s.Q.N))
	}
	b.do(&s)
	return s.dst
}

// Gated sets gate to act(gate)*up and returns it.
func (b *Builder) Gated(act Activation, gate, up Reg) Reg {
	b.do(&gatedOp{act: act, dst: gate, gate: gate, up: up})
	return gate
}

// GatedHalves is gated with the gate in the first half of the columns of a
// register and the other factor in the second; the result is a register of half
// the width.
func (b *Builder) GatedHalves(act Activation, r Reg) Reg {
	w := b.Width(r) / 2
	dst := b.like(r, w)
	b.do(&gatedOp{act: act, dst: dst, gate: r, up: r, upAt: w})
	return dst
}

// Activate applies an activation in place.
func (b *Builder) Activate(act Activation, r Reg) Reg {
	b.do(&activateOp{act: act, reg: r})
	return r
}

// TwoLayerMLP is a linear, an activation and a linear; its output is added to dst.
func (b *Builder) TwoLayerMLP(dst, h Reg, in, out string, width int, act Activation, bias bool) {
	b.AddLinear(dst, b.Activate(act, b.Linear(h, in, width, bias)), out, bias)
}

// Copied is a register with the content of another. Linears that read the
// residual stream as it is read a copy, so that a stage holds what they read
// whatever becomes of the stream.
func (b *Builder) Copied(src Reg) Reg {
	dst := b.like(src, b.Width(src))
	b.Overwrite(dst, src)
	return dst
}

// Overwrite copies src into dst.
func (b *Builder) Overwrite(dst, src Reg) { b.do(&copyOp{dst, src}) }

// Clip limits the elements of a register to [-limit, limit]; 0 is no limit.
func (b *Builder) Clip(r Reg, limit float64) {
	if limit != 0 {
		b.do(&clipOp{reg: r, limit: float32(limit)})
	}
}

// Add adds factor*src to dst.
func (b *Builder) Add(dst, src Reg, factor float64) {
	b.do(&addOp{dst: dst, src: src, factor: float32(factor)})
}

// Scale multiplies a register.
func (b *Builder) Scale(r Reg, factor float64) {
	if factor != 1 {
		b.do(&scaleOp{reg: r, factor: float32(factor)})
	}
}

// Heads are equal parts of a register's columns: one a head, or with groups so
// many side by side in each group.
type Heads struct {
	Reg       Reg
	N, Dim    int
	Base      int // first column
	Step      int // columns from head to head; 0 means dim
	Group     int // heads in a group; 0: no groups
	GroupStep int // columns from group to group
}

// Whole is a register that heads of this width fill.
func (b *Builder) Whole(r Reg, dim int) Heads { return Heads{Reg: r, N: b.Width(r) / dim, Dim: dim} }

// at is the first column of a head.
func (h Heads) at(i int) int {
	step := h.Step
	if step == 0 {
		step = h.Dim
	}
	if h.Group == 0 {
		return h.Base + i*step
	}
	return h.Base + i/h.Group*h.GroupStep + i%h.Group*step
}

// contiguous tells whether the heads lie side by side.
func (h Heads) contiguous() bool {
	return h.N == 1 || h.Group == 0 && (h.Step == 0 || h.Step == h.Dim)
}

// leaves reports whether the heads are apart from columns [c0, c1) of r.
func (h Heads) leaves(r Reg, c0, c1 int) bool {
	if r != h.Reg {
		return true
	}
	for i := range h.N {
		if c := h.at(i); c < c1 && c+h.Dim > c0 {
			return false
		}
	}
	return true
}

// Absent names tensors that the configuration does not foresee: where they are
// there all the same they must be without effect.
func (b *Builder) Absent(paths ...string) { b.p.absent = append(b.p.absent, paths...) }
