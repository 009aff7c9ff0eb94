package decoder

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// routing is which tokens of a frame go to which expert.
type routing struct {
	rows    [][]int32   // by expert, ascending
	weights [][]float32 // of what the expert gives, by expert
}

// routerSpec says how a router scores experts for a token, which it takes, and
// with what weights (Shazeer et al., arXiv 1701.06538; Jiang et al., Mixtral,
// arXiv 2401.04088; DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
type routerSpec struct {
	experts, top int
	bias         bool // the logits have a bias

	// Scores are the softmax of the logits; with sigmoid the sigmoid of each; with
	// ofChosen the logits themselves, and weights are the softmax over the chosen.
	sigmoid, ofChosen bool
	// correction is a vector that is added to scores for the choice alone, "" for
	// none; correctionShape its shape if it is not [experts].
	correction      string
	correctionShape []int
	// Of equal groups of experts only the best few are chosen from: by their best
	// score, or with pairs by the sum of their two best. 0 means no groups.
	groups, topGroups int
	pairs             bool
	// renormalize divides weights by their sum, which is taken as no less than
	// floor; plus is added to it. Then they are multiplied by factor; 0 means 1.
	renormalize bool
	floor, plus float32
	factor      float64
	// jitter is the threshold of SparseMixer (arXiv 2409.12136), 0 for the rest.
	jitter float64
}

// routerOp sends tokens to experts.
type routerOp struct {
	routerSpec
	src        reg
	id         int // of its routing in the frame
	weight     int // parameter [experts, width]
	shift      int // bias of the logits, or -1
	correction int // or -1
}

// router adds a softmax router and returns its number.
func (b *builder) router(src reg, path string, experts, top int, renormalize bool) int {
	return b.route(src, path, routerSpec{experts: experts, top: top, renormalize: renormalize})
}

// route adds a router and returns its number. path is without ".weight".
func (b *builder) route(src reg, path string, s routerSpec) int {
	id := b.routers()
	o := &routerOp{
		routerSpec: s, src: src, id: id, weight: b.param(path+".weight", s.experts, b.width(src)),
		shift: -1, correction: -1,
	}
	if s.bias {
		o.shift = b.param(path+".bias", s.experts)
	}
	if s.correction != "" {
		shape := s.correctionShape
		if shape == nil {
			shape = []int{s.experts}
		}
		o.correction = b.param(s.correction, shape...)
	}
	b.do(o)
	return id
}

// routers counts the routers so far.
func (b *builder) routers() int {
	n := 0
	for _, o := range b.p.ops {
		if _, ok := o.(*routerOp); ok {
			n++
		}
	}
	return n
}

func (o *routerOp) reads() []reg  { return []reg{o.src} }
func (o *routerOp) writes() []reg { return nil }

func (o *routerOp) run(x *exec) {
	src := x.reg(o.src)
	scores := x.r.matrix(src.Rows, o.experts)
	tensor.Gemm(false, true, 1, src, x.b.params[o.weight], 0, scores, x.r.workers)
	chosen := make([]int32, src.Rows*o.top)
	shift, correction := x.vector(o.shift), x.vector(o.correction)
	x.rows(src.Rows, func(i int) {
		p := scores.Row(i)
		if shift != nil {
			kernel.Axpy(1, shift, p)
		}
		copy(chosen[i*o.top:], o.choose(p, correction))
	})
	x.route(o.id, o.experts, o.top, chosen, scores)
	x.r.release(scores)
}

// choose returns the experts for logits p and leaves their weights in p.
func (o *routerOp) choose(p, correction []float32) []int32 {
	switch {
	case o.jitter > 0:
		return o.sparseMixer(p)
	case o.ofChosen:
		best := topK(p, o.top)
		chosen := make([]float32, len(best))
		for j, e := range best {
			chosen[j] = p[e]
		}
		softmax(chosen)
		for j, e := range best {
			p[e] = chosen[j]
		}
		return best
	case o.sigmoid:
		sigmoid.apply(p)
	default:
		softmax(p)
	}
	choice := p
	if correction != nil {
		choice = append([]float32(nil), p...)
		kernel.Axpy(1, correction, choice)
	}
	if o.groups > 1 {
		choice = o.limit(choice)
		if !o.pairs {
			for e, v := range choice {
				p[e] = max(v, 0) // not of groups that are left out
			}
		}
	}
	best := topK(choice, o.top)
	var sum float32
	for _, e := range best {
		sum += p[e]
	}
	if o.renormalize {
		sum = max(sum, o.floor) + o.plus
		for _, e := range best {
			p[e] /= sum
		}
	}
	if o.factor != 0 {
		for _, e := range best {
			p[e] *= float32(o.factor)
		}
	}
	return best
}

// limit returns the scores with those of all but the best groups at -infinity.
func (o *routerOp) limit(scores []float32) []float32 {
	out := append([]float32(nil), scores...)
	size := o.experts / o.groups
	ranks := make([]float32, o.groups)
	none := float32(math.Inf(-1))
	for g := range ranks {
		best, second := none, none
		for _, v := range out[g*size : (g+1)*size] {
			if v > best {
				best, second = v, best
			} else if v > second {
				second = v
			}
		}
		if ranks[g] = best; o.pairs {
			ranks[g] += second
		}
	}
	keep := topK(ranks, o.topGroups)
	for g := range ranks {
		if !slices.Contains(keep, int32(g)) {
			for e := g * size; e < (g+1)*size; e++ {
				out[e] = none
			}
		}
	}
	return out
}

// sparseMixer takes the two best. The weight of each is its share in the softmax
// over those that come close to it: within twice the jitter relative to the larger
// of the best logit and their own size. What was taken first is left out for the
// second.
func (o *routerOp) sparseMixer(p []float32) []int32 {
	logits := append([]float32(nil), p...)
	left := append([]float32(nil), p...)
	chosen := make([]int32, 0, 2)
	for range 2 {
		first := topK(left, 1)[0]
		top := left[first]
		var sum float64
		for e, v := range left {
			size := max(float32(math.Abs(float64(logits[e]))), top)
			if (top-logits[e])/size <= float32(2*o.jitter) {
				sum += math.Exp(float64(v) - float64(top))
			}
		}
		p[first] = float32(1 / sum)
		left[first] = float32(math.Inf(-1))
		chosen = append(chosen, first)
	}
	slices.Sort(chosen)
	return chosen
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
	// Hugging Face transformers 5 holds all experts in two tensors, and there are
	// files of that kind.
	both, stacked := strings.CutSuffix(names.gate, "%d.gate_proj")
	part := func(src reg, path string, e, out int, s Slice) reg {
		dst := b.linear(src, sprintf(path, e), out, false)
		if s.Experts, s.Expert, s.Optional = n, e, true; stacked {
			b.sliced(s)
		}
		return dst
	}
	for e := range n {
		in := b.gather(h, router, e)
		gate := part(in, names.gate, e, width, Slice{Weight: both + "gate_up_proj", Outputs: 2 * width})
		up := part(in, names.up, e, width, Slice{Weight: both + "gate_up_proj", Outputs: 2 * width, Output0: width})
		out := part(b.gated(act, gate, up), names.down, e, b.width(h), Slice{Weight: both + "down_proj", Outputs: b.width(h)})
		b.scatter(y, out)
	}
	return y
}

// gatedOf adds a gated MLP of a width, its output added to dst.
func (b *builder) gatedOf(dst, h reg, path string, width int, act activation, bias bool) {
	gate := b.linear(h, path+"gate_proj", width, bias)
	up := b.linear(h, path+"up_proj", width, bias)
	b.addLinear(dst, b.gated(act, gate, up), path+"down_proj", bias)
}

// hubExperts are the paths of experts in most mixtures, wExperts those of Mixtral
// and some others.
var (
	hubExperts = expertNames{"mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj"}
	wExperts   = expertNames{"block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2"}
)

// sliced says where the last linear is stored. The names in s are paths.
func (b *builder) sliced(s Slice) {
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
