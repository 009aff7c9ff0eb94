// Package divergence sums up how a model's predictions differ from another's, token by
// token.
package divergence

import (
	"math"
	"slices"
)

// Tally collects predictions. Divergences are kept, four bytes a token, as percentiles are
// of all of them.
type Tally struct {
	each []float32
	kl   moments
	diff moments // of the log-likelihoods' differences
	same int
}

// Reserve makes room for n more tokens.
func (t *Tally) Reserve(n int) { t.each = slices.Grow(t.each, n) }

// Add takes the divergences of tokens, the negative log-likelihoods of what follows under
// the model and under the other, and of how many both have the same likeliest token.
func (t *Tally) Add(kl, nll, other []float64, same int) {
	for i, v := range kl {
		t.each = append(t.each, float32(v))
		t.kl.add(v)
		t.diff.add(nll[i] - other[i])
	}
	t.same += same
}

// Summary says how far a model is from another. Divergences are in nats a token.
type Summary struct {
	Mean    float64 `json:"kl_mean"`
	Error   float64 `json:"kl_error"` // standard error of the mean, of tokens taken for independent
	Median  float64 `json:"kl_median"`
	P95     float64 `json:"kl_95"` // 95 % of the tokens have at most this
	P99     float64 `json:"kl_99"`
	P999    float64 `json:"kl_99_9"`
	Maximum float64 `json:"kl_max"`
	// SameTop is the share of tokens whose likeliest next token is the same.
	SameTop      float64 `json:"same_top"`
	SameTopError float64 `json:"same_top_error"`
	// Ratio is the perplexity over the other's.
	Ratio      float64 `json:"perplexity_ratio"`
	RatioError float64 `json:"perplexity_ratio_error"`
}

// Summary sorts what was collected.
func (t *Tally) Summary() Summary {
	slices.Sort(t.each)
	n := float64(t.kl.n)
	s := Summary{
		Mean: t.kl.mean(), Error: t.kl.err(),
		Median: percentile(t.each, 0.5), P95: percentile(t.each, 0.95), P99: percentile(t.each, 0.99), P999: percentile(t.each, 0.999),
		SameTop: float64(t.same) / n, Ratio: math.Exp(t.diff.mean()),
	}
	if len(t.each) > 0 {
		s.Maximum = float64(t.each[len(t.each)-1])
	}
	s.RatioError = s.Ratio * t.diff.err()
	if t.kl.n > 1 {
		s.SameTopError = math.Sqrt(s.SameTop * (1 - s.SameTop) / (n - 1))
	}
	return s
}

// percentile interpolates between the two values at a fraction of what is sorted.
func percentile(sorted []float32, fraction float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := fraction * float64(len(sorted)-1)
	i := int(at)
	next := min(i+1, len(sorted)-1)
	at -= float64(i)
	return (1-at)*float64(sorted[i]) + at*float64(sorted[next])
}

// moments are how many values there are, their sum, and that of their squares.
type moments struct {
	n         int
	sum, sum2 float64
}

func (m *moments) add(v float64) {
	m.n++
	m.sum += v
	m.sum2 += v * v
}

func (m moments) mean() float64 { return m.sum / float64(m.n) }

// err is the standard error of the mean.
func (m moments) err() float64 {
	if m.n < 2 {
		return 0
	}
	mean := m.mean()
	return math.Sqrt(max(0, m.sum2/float64(m.n)-mean*mean) / float64(m.n-1))
}

// Likelihood collects negative log-likelihoods of a model.
type Likelihood struct{ moments }

// Add takes those of tokens.
func (l *Likelihood) Add(nll []float64) {
	for _, v := range nll {
		l.add(v)
	}
}

// Tokens is how many there are.
func (l *Likelihood) Tokens() int { return l.n }

// Perplexity is exp of their mean, with its standard error.
func (l *Likelihood) Perplexity() (p, err float64) {
	p = math.Exp(l.mean())
	return p, p * l.err()
}
