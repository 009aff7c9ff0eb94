package nn

import (
	"cmp"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Router says how a router scores experts for a token, which it takes, and
// with what weights (Shazeer et al., arXiv 1701.06538; Jiang et al., Mixtral,
// arXiv 2401.04088; DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
type Router struct {
	Experts, Top int
	Bias         bool // the logits have a bias

	// Scores are the softmax of the logits; with Sigmoid the sigmoid of each; with
	// OfChosen the logits themselves, and weights are the softmax over the chosen.
	Sigmoid, OfChosen bool
	// Correction is a vector that is added to scores for the choice alone, "" for
	// none; CorrectionShape its shape if it is not [experts].
	Correction      string
	CorrectionShape []int
	// Of equal groups of experts only the best few are chosen from: by their best
	// score, or with Pairs by the sum of their two best. 0 means no groups.
	Groups, TopGroups int
	Pairs             bool
	// Renormalize divides weights by their sum, which is taken as no less than
	// floor; plus is added to it. Then they are multiplied by factor; 0 means 1.
	Renormalize bool
	Floor, Plus float32
	Factor      float64
	// Jitter is the threshold of SparseMixer (arXiv 2409.12136), 0 for the rest.
	Jitter float64
}

// Choose returns the experts for logits p and leaves their weights in p.
func (o *Router) Choose(p, correction []float32) []int32 {
	switch {
	case o.Jitter > 0:
		return o.sparseMixer(p)
	case o.OfChosen:
		best := topK(p, o.Top)
		chosen := make([]float32, len(best))
		for j, e := range best {
			chosen[j] = p[e]
		}
		softmax(chosen)
		for j, e := range best {
			p[e] = chosen[j]
		}
		return best
	case o.Sigmoid:
		Sigmoid.Apply(p)
	default:
		softmax(p)
	}
	choice := p
	if correction != nil {
		choice = append([]float32(nil), p...)
		kernel.Axpy(1, correction, choice)
	}
	if o.Groups > 1 {
		choice = o.limit(choice)
		if !o.Pairs {
			for e, v := range choice {
				p[e] = max(v, 0) // not of groups that are left out
			}
		}
	}
	best := topK(choice, o.Top)
	var sum float32
	for _, e := range best {
		sum += p[e]
	}
	if o.Renormalize {
		sum = max(sum, o.Floor) + o.Plus
		for _, e := range best {
			p[e] /= sum
		}
	}
	if o.Factor != 0 {
		for _, e := range best {
			p[e] *= float32(o.Factor)
		}
	}
	return best
}

// limit returns the scores with those of all but the best groups at -infinity.
func (o *Router) limit(scores []float32) []float32 {
	out := append([]float32(nil), scores...)
	size := o.Experts / o.Groups
	ranks := make([]float32, o.Groups)
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
		if ranks[g] = best; o.Pairs {
			ranks[g] += second
		}
	}
	keep := topK(ranks, o.TopGroups)
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
func (o *Router) sparseMixer(p []float32) []int32 {
	logits := append([]float32(nil), p...)
	left := append([]float32(nil), p...)
	chosen := make([]int32, 0, 2)
	for range 2 {
		first, sum := o.near(logits, left, nil)
		p[first] = float32(1 / sum)
		left[first] = float32(math.Inf(-1))
		chosen = append(chosen, first)
	}
	slices.Sort(chosen)
	return chosen
}

// near is the best of those left and the sum of the exponentials, relative to it, of
// those that come close to it; share, if not nil, is set to these.
func (o *Router) near(logits, left []float32, share []float64) (first int32, sum float64) {
	first = topK(left, 1)[0]
	top := left[first]
	clear(share)
	for e, v := range left {
		size := max(float32(math.Abs(float64(logits[e]))), top)
		if (top-logits[e])/size <= float32(2*o.Jitter) {
			x := math.Exp(float64(v) - float64(top))
			if sum += x; share != nil {
				share[e] = x
			}
		}
	}
	return first, sum
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

// ChooseBack turns g, the gradient at the weights of the experts chosen for logits
// p, into that at the logits.
func (o *Router) ChooseBack(p, correction, g []float32) {
	if o.Jitter > 0 {
		o.unmix(p, g)
		return
	}
	scores := append([]float32(nil), p...)
	chosen := o.Choose(append([]float32(nil), p...), correction)
	var sum, along float64
	switch {
	case o.OfChosen:
		part := make([]float32, len(chosen))
		for j, e := range chosen {
			part[j] = p[e]
		}
		softmax(part)
		for j, e := range chosen {
			along += float64(part[j]) * float64(g[e])
		}
		d := append([]float32(nil), g...)
		clear(g)
		for j, e := range chosen {
			g[e] = float32(float64(part[j]) * (float64(d[e]) - along))
		}
		return
	case o.Sigmoid:
		Sigmoid.Apply(scores)
	default:
		softmax(scores)
	}
	weight := append([]float32(nil), scores...)
	if o.Groups > 1 && !o.Pairs && correction != nil {
		kernel.Axpy(1, correction, weight)
	}
	d := make([]float64, len(p)) // of the scores
	for _, e := range chosen {
		d[e] = float64(g[e])
		if o.Factor != 0 {
			d[e] *= o.Factor
		}
		sum += float64(weight[e])
		along += d[e] * float64(weight[e])
	}
	if o.Renormalize {
		total := max(sum, float64(o.Floor)) + float64(o.Plus)
		if along /= total * total; sum < float64(o.Floor) {
			along = 0
		}
		for _, e := range chosen {
			d[e] = d[e]/total - along
		}
	}
	along = 0
	for e, s := range scores {
		along += d[e] * float64(s)
	}
	for e, s := range scores {
		if v := float64(s); o.Sigmoid {
			g[e] = float32(d[e] * v * (1 - v))
		} else {
			g[e] = float32(v * (d[e] - along))
		}
	}
}

// unmix is ChooseBack for sparseMixer.
func (o *Router) unmix(p, g []float32) {
	d := append([]float32(nil), g...)
	clear(g)
	left, share := append([]float32(nil), p...), make([]float64, len(p))
	for range 2 {
		first, sum := o.near(p, left, share)
		f := float64(d[first]) / sum
		for e, v := range share {
			g[e] -= float32(f * v / sum)
		}
		g[first] += float32(f)
		left[first] = float32(math.Inf(-1))
	}
}
