package program

import (
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// routing is which tokens of a frame go to which expert.
type routing struct {
	rows    [][]int32   // by expert, ascending; after those that have weights others, see Runner.Fill
	weights [][]float32 // of what the expert gives, by expert
}

// routerOp sends tokens to experts.
type routerOp struct {
	Router
	src        Reg
	id         int // of its routing in the frame
	weight     int // parameter [experts, width]
	shift      int // bias of the logits, or -1
	correction int // or -1
}

// Router adds a softmax router and returns its number.
func (b *Builder) Router(src Reg, path string, experts, top int, renormalize bool) int {
	return b.Route(src, path, Router{Experts: experts, Top: top, Renormalize: renormalize})
}

// Route adds a router and returns its number. path is without ".weight".
func (b *Builder) Route(src Reg, path string, s Router) int {
	id := b.routers()
	o := &routerOp{
		Router: s, src: src, id: id, weight: b.Param(path+".weight", s.Experts, b.Width(src)),
		shift: -1, correction: -1,
	}
	if s.Bias {
		o.shift = b.Param(path+".bias", s.Experts)
	}
	if s.Correction != "" {
		shape := s.CorrectionShape
		if shape == nil {
			shape = []int{s.Experts}
		}
		o.correction = b.Param(s.Correction, shape...)
	}
	b.do(o)
	return id
}

// routers counts the routers so far.
func (b *Builder) routers() int {
	n := 0
	for _, o := range b.p.ops {
		if _, ok := o.(*routerOp); ok {
			n++
		}
	}
	return n
}

func (o *routerOp) reads() []Reg  { return []Reg{o.src} }
func (o *routerOp) writes() []Reg { return nil }

func (o *routerOp) run(x *exec) {
	src := x.reg(o.src)
	scores := x.r.Matrix(src.Rows, o.Experts)
	tensor.Gemm(false, true, 1, src, x.b.params[o.weight], 0, scores, x.r.workers)
	chosen := make([]int32, src.Rows*o.Top)
	shift, correction := x.vector(o.shift), x.vector(o.correction)
	x.rows(src.Rows, func(i int) {
		p := scores.Row(i)
		if shift != nil {
			kernel.Axpy(1, shift, p)
		}
		copy(chosen[i*o.Top:], o.Choose(p, correction))
	})
	x.route(o.id, o.Experts, o.Top, chosen, scores)
	x.r.Release(scores)
}

// route records which rows go to which expert, with the weights at [row, expert].
func (x *exec) route(id, experts, top int, chosen []int32, weights *tensor.Matrix) {
	r := &routing{rows: make([][]int32, experts), weights: make([][]float32, experts)}
	for i := range weights.Rows {
		for _, e := range chosen[i*top : (i+1)*top] {
			r.rows[e] = append(r.rows[e], int32(i))
			r.weights[e] = append(r.weights[e], weights.At(i, int(e)))
		}
	}
	r.fill(weights.Rows, x.r.Fill)
	for len(x.f.routes) <= id {
		x.f.routes = append(x.f.routes, nil)
	}
	x.f.routes[id] = r
}

// fill adds a part of the n rows that an expert does not get to what it computes.
func (r *routing) fill(n int, part float64) {
	if part <= 0 {
		return
	}
	for e, own := range r.rows {
		rest := make([]int32, 0, n)
		for i := range int32(n) {
			if len(own) > 0 && own[0] == i {
				own = own[1:]
			} else {
				rest = append(rest, i)
			}
		}
		want := min(len(rest), int(part*float64(n)+0.5))
		for i := range want {
			r.rows[e] = append(r.rows[e], rest[i*len(rest)/want])
		}
	}
}

// gatherOp takes the rows of an expert.
type gatherOp struct{ dst, src Reg }

// Gather makes a register with the tokens that a router sends to an expert.
func (b *Builder) Gather(src Reg, router, expert int) Reg {
	dst := b.Reg(b.Width(src))
	b.p.regs[dst].router, b.p.regs[dst].expert = router, expert
	b.do(&gatherOp{dst, src})
	return dst
}

func (o *gatherOp) reads() []Reg  { return []Reg{o.src} }
func (o *gatherOp) writes() []Reg { return []Reg{o.dst} }

func (o *gatherOp) run(x *exec) {
	src, dst, d := x.reg(o.src), x.write(o.dst), x.f.p.regs[o.dst]
	for i, row := range x.f.routes[d.router].rows[d.expert] {
		copy(dst.Row(i), src.Row(int(row)))
	}
}

// scatterOp adds what an expert gives, weighted, to its tokens.
type scatterOp struct{ dst, src Reg }

// Scatter adds a register with an expert's tokens to one with all tokens.
func (b *Builder) Scatter(dst, src Reg) { b.do(&scatterOp{dst, src}) }

func (o *scatterOp) reads() []Reg  { return []Reg{o.src, o.dst} }
func (o *scatterOp) writes() []Reg { return []Reg{o.dst} }

func (o *scatterOp) run(x *exec) {
	src, dst, d := x.reg(o.src), x.reg(o.dst), x.f.p.regs[o.src]
	r := x.f.routes[d.router]
	for i, w := range r.weights[d.expert] {
		kernel.Axpy(w, src.Row(i), dst.Row(int(r.rows[d.expert][i])))
	}
}

// zeroOp clears a register.
type zeroOp struct{ dst Reg }

// Zeros makes a register of zeros for all tokens.
func (b *Builder) Zeros(width int) Reg {
	dst := b.Reg(width)
	b.do(&zeroOp{dst})
	return dst
}

func (o *zeroOp) reads() []Reg  { return nil }
func (o *zeroOp) writes() []Reg { return []Reg{o.dst} }
func (o *zeroOp) run(x *exec)   { x.write(o.dst).Zero() }

// ExpertNames are the paths of an expert's linears, with its number for %d.
type ExpertNames struct{ Gate, Up, Down string }

// Experts adds gated experts behind a router: what they give together.
func (b *Builder) Experts(h Reg, router, n, width int, act Activation, names ExpertNames) Reg {
	y := b.Zeros(b.Width(h))
	// Hugging Face transformers 5 holds all experts in two tensors, and there are
	// files of that kind.
	both, stacked := strings.CutSuffix(names.Gate, "%d.gate_proj")
	part := func(src Reg, path string, e, out int, s Slice) Reg {
		dst := b.Linear(src, fmt.Sprintf(path, e), out, false)
		if s.Experts, s.Expert, s.Optional = n, e, true; stacked {
			b.Sliced(s)
		}
		return dst
	}
	for e := range n {
		in := b.Gather(h, router, e)
		gate := part(in, names.Gate, e, width, Slice{Weight: both + "gate_up_proj", Outputs: 2 * width})
		up := part(in, names.Up, e, width, Slice{Weight: both + "gate_up_proj", Outputs: 2 * width, Output0: width})
		out := part(b.Gated(act, gate, up), names.Down, e, b.Width(h), Slice{Weight: both + "down_proj", Outputs: b.Width(h)})
		b.Scatter(y, out)
	}
	return y
}

// Sliced says where the last linear is stored. The names in s are paths.
func (b *Builder) Sliced(s Slice) {
	l := &b.p.Linears[len(b.p.Linears)-1]
	s.Weight = b.p.prefix + s.Weight
	if l.Bias {
		s.Bias = b.p.prefix + s.Bias
	}
	if s.Step == 0 {
		s.Step = 1
	}
	l.Slice = &s
}

// Transposed says that the last linear is stored as [in, out].
func (b *Builder) Transposed() {
	l := &b.p.Linears[len(b.p.Linears)-1]
	b.Sliced(Slice{Weight: l.Path + ".weight", Bias: l.Path + ".bias", Transposed: true, Outputs: l.Out})
}
