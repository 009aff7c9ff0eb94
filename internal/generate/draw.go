package generate

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/tensor"
)

// Sampler says how tokens are drawn from predictions.
type Sampler struct {
	Temperature float64 // 0: the likeliest token, always
	TopK        int     // of the likeliest so many; 0: of all
	TopP        float64 // of the likeliest that together have this probability; 0 or 1: of all
}

// candidate is a token that may be drawn.
type candidate struct {
	id int32
	p  float64
}

// Draw draws a token. Probabilities are those of logits divided by the temperature; of these the top k are
// left, and of those, scaled to 1, the top p.
func (s Sampler) Draw(logits []float32, rng *rand.Rand) int32 {
	if s.Temperature == 0 {
		best := int32(0)
		for i, v := range logits {
			if v > logits[best] {
				best = int32(i)
			}
		}
		return best
	}
	if s.Temperature == 1 && s.TopK == 0 && (s.TopP == 0 || s.TopP == 1) {
		return decoder.Sample(logits, rng)
	}
	top := float64(slices.Max(logits))
	all := make([]candidate, len(logits))
	for i, v := range logits {
		all[i] = candidate{int32(i), math.Exp((float64(v) - top) / s.Temperature)}
	}
	all = likeliest(all, cmp.Or(max(s.TopK, 0), len(all)))
	var sum float64
	for _, c := range all {
		sum += c.p
	}
	if s.TopP > 0 && s.TopP < 1 {
		var kept float64
		for i, c := range all {
			if kept += c.p; kept >= s.TopP*sum {
				all, sum = all[:i+1], kept
				break
			}
		}
	}
	u := rng.Float64() * sum
	for _, c := range all {
		if u -= c.p; u < 0 {
			return c.id
		}
	}
	return all[len(all)-1].id
}

// likeliest are the k likeliest of all, the likeliest and of equals the first token first. It
// sorts in place, and no more than twice as many at a time: k is mostly small, a vocabulary is not.
func likeliest(all []candidate, k int) []candidate {
	before := func(a, b candidate) int { return cmp.Or(cmp.Compare(b.p, a.p), cmp.Compare(a.id, b.id)) }
	best, cut := all[:0], false
	for _, c := range all {
		if cut && before(c, best[k-1]) > 0 {
			continue
		}
		if best = append(best, c); len(best) == 2*k {
			slices.SortFunc(best, before)
			best, cut = best[:k], true
		}
	}
	slices.SortFunc(best, before)
	return best[:min(k, len(best))]
}

// draws is the source of the draw of one token: it depends on seed, window and place alone.
func draws(seed uint64, window, place int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(window)<<32|uint64(place)))
}

// Continue adds to prompt up to n tokens, of which it tells one by one; an error of told ends it, and
// so does a token that is an end of a text, which is not told. The prompt must not be empty.
func (e *Engine) Continue(ctx context.Context, prompt []int32, n int, how Sampler, seed uint64, ends []int32, told func(id int32) error) (ended bool, err error) {
	s := e.Start(1, len(prompt)+n)
	logits := tensor.New(1, e.Model.Vocab)
	next := prompt
	for i := range n {
		if err := s.Feed(ctx, [][]int32{next}, logits); err != nil {
			return false, err
		}
		id := how.Draw(logits.Row(0), draws(seed, 0, i))
		if slices.Contains(ends, id) {
			return true, nil
		}
		if err := told(id); err != nil {
			return false, err
		}
		next = []int32{id}
	}
	return false, nil
}

// Together is how many windows are written side by side at most: more are no faster.
const Together = 64

// Write draws windows of size tokens from the model, at temperature 1, so many together. A window begins with one of
// the prompts, in turn, of which what is too long is cut off, and behind an end of a text with the first token of one, begin, if
// that is not negative. What comes out depends on these alone. Step, if not nil, is called after
// every token.
func (e *Engine) Write(ctx context.Context, windows, size, together int, prompts [][]int32, begin int32, ends []int32, seed uint64, step func(done, total int)) ([][]int32, error) {
	all := make([][]int32, windows)
	for i := range all {
		prompt := prompts[i%len(prompts)]
		all[i] = append(make([]int32, 0, size), prompt[:min(len(prompt), size)]...)
	}
	for first := 0; first < windows; first += together {
		batch := all[first:min(first+together, windows)]
		s := e.Start(len(batch), size)
		logits := tensor.New(len(batch), e.Model.Vocab)
		next := make([][]int32, len(batch))
		for t := range size {
			if t > 0 {
				for i, w := range batch {
					if len(w) == t {
						batch[i] = append(w, follow(w[t-1], logits.Row(i), begin, ends, draws(seed, first+i, t)))
					}
				}
			}
			for i, w := range batch {
				next[i] = w[t : t+1]
			}
			if t < size-1 {
				if err := s.Feed(ctx, next, logits); err != nil {
					return nil, err
				}
			}
			if step != nil {
				step(first*size+(t+1)*len(batch), windows*size)
			}
		}
	}
	return all, nil
}

// follow is what comes behind a token.
func follow(last int32, logits []float32, begin int32, ends []int32, rng *rand.Rand) int32 {
	if begin >= 0 && last != begin && slices.Contains(ends, last) {
		return begin
	}
	return decoder.Sample(logits, rng)
}
