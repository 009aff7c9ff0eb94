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
	"github.com/golowbit/lowbit/internal/memory"
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

	embedding *decoder.Embedding
	head      *decoder.Head
	x         *tensor.Matrix // residual stream [tokens, hidden] of a batch
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
	// Tokens is about how many go through the models at once; 0 means all. What
	// comes out does not depend on it.
	Tokens int
	Alone  bool // see Walk

	nll    [2]float64
	kl     float64
	tokens int
}

// logitsBytes is about how much is taken of the logits at a time: they are wide.
const logitsBytes = 64 << 20

// LogitsChunk is how many of rows are taken at a time where as many matrices of logits
// are in memory.
func LogitsChunk(vocab, matrices, rows int) int {
	return min(max(16, logitsBytes/(4*matrices)/vocab), rows)
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
	batches := s.batches(windows)
	done, total := 0, 0
	for _, m := range s.Models {
		total += m.Model.Layers * len(batches)
	}
	for _, numbers := range batches {
		w := make([][]int32, len(numbers))
		for i, k := range numbers {
			w[i] = windows[k]
		}
		for _, m := range s.Models {
			err := m.run(ctx, w, numbers, s.Alone, func() {
				done++
				if s.Step != nil {
					s.Step(done, total, m.Name)
				}
			})
			if err != nil {
				return nil, err
			}
		}
		if err := s.add(ctx, w, numbers); err != nil {
			return nil, err
		}
	}
	return s.score()
}

// Within divides limit bytes of memory, 0 for any, among what windows need, and
// sets Tokens and Alone.
func (s *Scoring) Within(limit int64, windows [][]int32) (*memory.Plan, error) {
	e := memory.Evaluation{Logits: logitsBytes}
	for _, m := range s.Models {
		e.Models = append(e.Models, m.Model)
	}
	for _, ids := range windows {
		e.Tokens += len(ids)
		e.SeqLen = max(e.SeqLen, len(ids))
	}
	p, tokens, err := e.Plan(limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Models[0].Name, err)
	}
	s.Tokens, s.Alone = tokens, p.Alone
	return p, nil
}

// batches are the numbers of windows that go through the models together: those
// of a length, in order.
func (s *Scoring) batches(windows [][]int32) [][]int {
	byLength := map[int][]int{}
	for i, ids := range windows {
		byLength[len(ids)] = append(byLength[len(ids)], i)
	}
	var all [][]int
	for _, n := range slices.Sorted(maps.Keys(byLength)) {
		most := len(byLength[n])
		if s.Tokens > 0 {
			whole := program.Batch(n) // blocks see what they would see of all
			most = max(1, s.Tokens/whole) * (whole / n)
		}
		all = slices.AppendSeq(all, slices.Chunk(byLength[n], most))
	}
	return all
}

// run takes windows of a length through the blocks; numbers are theirs among all.
func (m *Scored) run(ctx context.Context, w [][]int32, numbers []int, alone bool, step func()) error {
	way := &Walk{Model: m.Model, Weights: m.Weights, Runner: m.Runner, SeqLen: len(w[0]), Alone: alone}
	var err error
	if m.embedding == nil {
		if m.embedding, err = m.Model.OpenEmbedding(m.Weights); err != nil {
			return err
		}
	}
	if m.x, err = way.Embed(m.embedding, w); err != nil {
		return err
	}
	if err := m.finite("the embedding", numbers); err != nil {
		return err
	}
	err = way.Blocks(ctx, m.Model.Layers, func(b *program.Block) error {
		defer step()
		if err := way.Forward(ctx, b, m.x); err != nil {
			return err
		}
		return m.finite(fmt.Sprintf("block %d (%s)", b.Index, strings.TrimSuffix(m.Model.BlockPrefix(b.Index), ".")), numbers)
	})
	m.Runner.Forget()
	return err
}

// finite fails if the stream has a NaN or an infinity, which came from where.
func (m *Scored) finite(where string, numbers []int) error {
	seq := m.x.Rows / len(numbers)
	for i := range m.x.Rows {
		if j := wire.NotFinite(m.x.Row(i)); j >= 0 {
			return fmt.Errorf("%s: %w: %s gives %g at token %d of window %d, channel %d", m.Name, ErrNotFinite, where, m.x.At(i, j), i%seq, numbers[i/seq], j)
		}
	}
	return nil
}

// add scores windows of equal length through which the models have run; numbers
// are theirs among all.
func (s *Scoring) add(ctx context.Context, w [][]int32, numbers []int) error {
	for _, m := range s.Models {
		// Not beside blocks: it is about as large as one.
		var err error
		if m.head, err = m.Model.LoadHead(m.Weights, m.embedding); err != nil {
			return err
		}
		defer func() { m.head, m.x = nil, nil }()
	}
	seq, vocab := len(w[0]), s.Models[0].Model.Vocab
	s.tokens += len(w) * (seq - 1)
	rows := seq - 1
	if s.Logits != nil {
		rows = seq
	}
	chunk := LogitsChunk(vocab, 1, rows)
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
