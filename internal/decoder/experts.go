package decoder

import (
	"cmp"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// routing is which tokens of a frame go to which expert.
type routing struct {
	rows    [][]int32   // by expert, ascending
	weights [][]float32 // of what the expert gives, by expert
}

// softmaxRouter takes for each token the experts with the highest scores
// (Shazeer et al., arXiv 1701.06538; Jiang et al., Mixtral, arXiv 2401.04088).
type softmaxRouter struct {
	src         reg
	id          int // of its routing in the frame
	weight      int // parameter [experts, width]
	experts     int
	top         int  // experts a token goes to
	renormalize bool // their weights sum to 1
}

// router adds a router and returns its number.
func (b *builder) router(src reg, path string, experts, top int, renormalize bool) int {
	id := b.routers()
	b.do(&softmaxRouter{
		src: src, id: id, weight: b.param(path+".weight", experts, b.width(src)),
		experts: experts, top: top, renormalize: renormalize,
	})
	return id
}

// routers counts the routers so far.
func (b *builder) routers() int {
	n := 0
	for _, o := range b.p.ops {
		if _, ok := o.(interface{ routes() }); ok {
			n++
		}
	}
	return n
}

func (o *softmaxRouter) routes()       {}
func (o *softmaxRouter) reads() []reg  { return []reg{o.src} }
func (o *softmaxRouter) writes() []reg { return nil }

func (o *softmaxRouter) run(x *exec) {
	src := x.reg(o.src)
	scores := x.r.matrix(src.Rows, o.experts)
	tensor.Gemm(false, true, 1, src, x.b.params[o.weight], 0, scores, x.r.workers)
	chosen := make([]int32, src.Rows*o.top)
	x.rows(src.Rows, func(i int) {
		p := scores.Row(i)
		softmax(p)
		best := topK(p, o.top)
		var sum float32
		for _, e := range best {
			sum += p[e]
		}
		copy(chosen[i*o.top:], best)
		if o.renormalize {
			for _, e := range best {
				p[e] /= sum
			}
		}
	})
	x.route(o.id, o.experts, o.top, chosen, scores)
	x.r.release(scores)
}

// softmax sets p to exp(p)/Σ exp(p).
func softmax(p []float32) {
	_, top := kernel.MinMax(p)
	kernel.Scale(p, 1/kernel.ExpShift(p, 1, top))
}

// topK returns the indices of the k largest, of equals the first, ascending.
func topK(p []float32, k int) []int32 {
	order := make([]int32, len(p))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(p[b], p[a]) })
	order = order[:k]
	slices.Sort(order)
	return order
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
	for len(x.f.routes) <= id {
		x.f.routes = append(x.f.routes, nil)
	}
	x.f.routes[id] = r
}

// gatherOp takes the rows of an expert.
type gatherOp struct{ dst, src reg }

// gather makes a register with the tokens that a router sends to an expert.
func (b *builder) gather(src reg, router, expert int) reg {
	dst := b.reg(b.width(src))
	b.p.regs[dst].router, b.p.regs[dst].expert = router, expert
	b.do(&gatherOp{dst, src})
	return dst
}

func (o *gatherOp) reads() []reg  { return []reg{o.src} }
func (o *gatherOp) writes() []reg { return []reg{o.dst} }

func (o *gatherOp) run(x *exec) {
	src, dst, d := x.reg(o.src), x.write(o.dst), x.f.p.regs[o.dst]
	for i, row := range x.f.routes[d.router].rows[d.expert] {
		copy(dst.Row(i), src.Row(int(row)))
	}
}

// scatterOp adds what an expert gives, weighted, to its tokens.
type scatterOp struct{ dst, src reg }

// scatter adds a register with an expert's tokens to one with all tokens.
func (b *builder) scatter(dst, src reg) { b.do(&scatterOp{dst, src}) }

func (o *scatterOp) reads() []reg  { return []reg{o.src, o.dst} }
func (o *scatterOp) writes() []reg { return []reg{o.dst} }

func (o *scatterOp) run(x *exec) {
	src, dst, d := x.reg(o.src), x.reg(o.dst), x.f.p.regs[o.src]
	r := x.f.routes[d.router]
	for i, row := range r.rows[d.expert] {
		kernel.Axpy(r.weights[d.expert][i], src.Row(i), dst.Row(int(row)))
	}
}

// zeroOp clears a register.
type zeroOp struct{ dst reg }

// zeros makes a register of zeros for all tokens.
func (b *builder) zeros(width int) reg {
	dst := b.reg(width)
	b.do(&zeroOp{dst})
	return dst
}

func (o *zeroOp) reads() []reg  { return nil }
func (o *zeroOp) writes() []reg { return []reg{o.dst} }
func (o *zeroOp) run(x *exec)   { x.write(o.dst).Zero() }

// expertNames are the paths of an expert's linears, with its number for %d.
type expertNames struct{ gate, up, down string }

// experts adds gated experts behind a router: what they give together.
func (b *builder) experts(h reg, router, n, width int, act activation, names expertNames) reg {
	y := b.zeros(b.width(h))
	for e := range n {
		in := b.gather(h, router, e)
		gate := b.linear(in, sprintf(names.gate, e), width, false)
		up := b.linear(in, sprintf(names.up, e), width, false)
		out := b.linear(b.gated(act, gate, up), sprintf(names.down, e), b.width(h), false)
		b.scatter(y, out)
	}
	return y
}
