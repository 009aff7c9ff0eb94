package walk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/tensor"
)

// ErrNotFinite is wrapped where a model computes NaN or an infinity.
var ErrNotFinite = errors.New("not finite")

// Scored is a model whose predictions are scored.
type Scored struct {
	Name    string // of the model, in errors and progress
	Model   *decoder.Model
	Weights program.Weights
	Runner  *program.Runner

	head *decoder.Head
	x    *tensor.Matrix // residual stream [tokens, hidden]
}

// Scoring measures the predictions of one model, or of two that have the same
// vocabulary.
type Scoring struct {
	Models []*Scored
	// Logits, if not nil, is given the logits of the first model, float32
	// [tokens, vocab], in pieces: those of a window that begin at token first. It
	// must not keep them. An error ends the work.
	Logits func(window, first int, logits *tensor.Matrix) error
	Step   func(done, total int, model string) // called after every block, if not nil

	nll    [2]float64
	kl     float64
	tokens int
}

// Score is the outcome of a Scoring.
type Score struct {
	// Perplexity, by model, is exp of the mean negative log-likelihood over the
	// predictions inside each window: all its tokens but the first.
	Perplexity [2]float64
	// KL is the mean Kullback-Leibler divergence of the first model's predictions
	// from the second's, in nats a token.
	KL     float64
	Tokens int // predictions scored
}

// Run runs the models on windows, those of a length together, and scores them.
func (s *Scoring) Run(ctx context.Context, windows [][]int32) (*Score, error) {
	byLength := map[int][]int{}
	for i, ids := range windows {
		byLength[len(ids)] = append(byLength[len(ids)], i)
	}
	done, total := 0, 0
	for _, m := range s.Models {
		total += m.Model.Layers * len(byLength)
	}
	for _, n := range slices.Sorted(maps.Keys(byLength)) {
		group := make([][]int32, len(byLength[n]))
		for i, k := range byLength[n] {
			group[i] = windows[k]
		}
		for _, m := range s.Models {
			err := m.run(ctx, group, func() {
				done++
				if s.Step != nil {
					s.Step(done, total, m.Name)
				}
			})
			if err != nil {
				return nil, err
			}
		}
		if err := s.add(ctx, group, byLength[n]); err != nil {
			return nil, err
		}
	}
	return s.score()
}

// run takes windows of a length through the blocks.
func (m *Scored) run(ctx context.Context, w [][]int32, step func()) error {
	way := &Walk{Model: m.Model, Weights: m.Weights, Runner: m.Runner, SeqLen: len(w[0])}
	x, embedding, err := way.Embed(w)
	if err != nil {
		return err
	}
	m.x = x
	if err := m.finite(x, "the embedding", way.SeqLen); err != nil {
		return err
	}
	err = way.Blocks(ctx, m.Model.Layers, func(b *program.Block) error {
		defer step()
		if err := way.Forward(ctx, b, x, nil); err != nil {
			return err
		}
		return m.finite(x, fmt.Sprintf("block %d (%s)", b.Index, strings.TrimSuffix(m.Model.BlockPrefix(b.Index), ".")), way.SeqLen)
	})
	if err != nil {
		return err
	}
	m.head, err = m.Model.LoadHead(m.Weights, embedding)
	return err
}

// finite fails if rows have a NaN or an infinity, which came from where. A
// window has seq rows.
func (m *Scored) finite(x *tensor.Matrix, where string, seq int) error {
	for i := range x.Rows {
		if j := wire.NotFinite(x.Row(i)); j >= 0 {
			return fmt.Errorf("%s: %w: %s gives %g at token %d of window %d, channel %d", m.Name, ErrNotFinite, where, x.At(i, j), i%seq, i/seq, j)
		}
	}
	return nil
}

// add scores windows of equal length through which the models have run; numbers
// are theirs among all.
func (s *Scoring) add(ctx context.Context, w [][]int32, numbers []int) error {
	seq, vocab := len(w[0]), s.Models[0].Model.Vocab
	s.tokens += len(w) * (seq - 1)
	rows := seq - 1
	if s.Logits != nil {
		rows = seq
	}
	// Logits are wide: take about 64 MB of them at a time.
	chunk := min(max(16, (16<<20)/vocab), rows)
	logits := make([]*tensor.Matrix, len(s.Models))
	for k := range logits {
		logits[k] = tensor.New(chunk, vocab)
	}
	values := make([]float64, chunk)
	for i, ids := range w {
		if err := ctx.Err(); err != nil {
			return err
		}
		for t0 := 0; t0 < rows; t0 += chunk {
			n := min(chunk, rows-t0)
			next := ids[t0+1 : t0+1+min(n, seq-1-t0)]
			for k, m := range s.Models {
				l := Rows(logits[k], 0, n)
				m.head.Logits(m.Runner, l, Rows(m.x, i*seq+t0, i*seq+t0+n))
				if err := s.likelihoods(k, l, next, values, numbers[i], t0); err != nil {
					return err
				}
			}
			if len(s.Models) == 2 {
				decoder.KLs(s.Models[0].Runner, values[:len(next)], Rows(logits[1], 0, len(next)), Rows(logits[0], 0, len(next)))
				for _, v := range values[:len(next)] {
					s.kl += v
				}
			}
			if s.Logits != nil {
				if err := s.Logits(numbers[i], t0, Rows(logits[0], 0, n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// likelihoods adds up those of the next tokens under the logits of a model, from
// token t0 of a window on.
func (s *Scoring) likelihoods(k int, logits *tensor.Matrix, next []int32, values []float64, window, t0 int) error {
	decoder.NLLs(s.Models[k].Runner, values[:len(next)], Rows(logits, 0, len(next)), next)
	for t, v := range values[:len(next)] {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %w: the head gives a negative log-likelihood of %g at token %d of window %d", s.Models[k].Name, ErrNotFinite, v, t0+t+1, window)
		}
		s.nll[k] += v
	}
	return nil
}

// score is what the sums come to.
func (s *Scoring) score() (*Score, error) {
	count := float64(s.tokens)
	r := &Score{Tokens: s.tokens, KL: s.kl / count}
	for k := range s.Models {
		r.Perplexity[k] = math.Exp(s.nll[k] / count)
	}
	for _, v := range []float64{r.Perplexity[0], r.Perplexity[1], r.KL} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%s: %w: perplexity %g", s.Models[0].Name, ErrNotFinite, v)
		}
	}
	return r, nil
}
