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
	"github.com/golowbit/lowbit/internal/divergence"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
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
	// Sizes is how many bytes a layer takes that Weights keep packed, 0 for others; nil if there are none.
	Sizes func(layer string) int64

	embedding *decoder.Embedding
	head      *decoder.Head
	x         *tensor.Matrix // residual stream [tokens, hidden] of a batch
}

// Scoring measures the predictions of one model, or of several that have the same
// vocabulary: the last is then the one that the others are compared with.
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
	// Experts is how many bytes of the weights of experts are kept, see Walk.Hold; 0 has all
	// of a block in memory.
	Experts int64

	nll []divergence.Likelihood // by model
	kl  []divergence.Tally      // by model but the last
}

// logitsBytes is about how much is taken of the logits at a time: they are wide.
const logitsBytes = 64 << 20

// LogitsChunk is how many of rows are taken at a time where as many matrices of logits
// are in memory.
func LogitsChunk(vocab, matrices, rows int) int {
	return min(max(16, logitsBytes/(4*matrices)/vocab), rows)
}

// Score is the outcome of a Scoring, by model.
type Score struct {
	// Perplexity is exp of the mean negative log-likelihood over the
	// predictions inside each window: all its tokens but the first. Error is its standard
	// error.
	Perplexity, Error []float64
	// Divergence is that of the predictions of each model but the last from the last one's.
	Divergence []divergence.Summary
	Tokens     int // predictions scored
}

// Run runs the models on windows, those of a length together, and scores them.
func (s *Scoring) Run(ctx context.Context, windows [][]int32) (*Score, error) {
	batches := s.batches(windows)
	s.nll, s.kl = make([]divergence.Likelihood, len(s.Models)), make([]divergence.Tally, len(s.Models)-1)
	for k := range s.kl {
		s.kl[k].Reserve(predictions(windows))
	}
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
			err := m.run(ctx, w, numbers, s.Alone, s.Experts, func() {
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
// sets Tokens, Alone and Experts.
func (s *Scoring) Within(limit int64, windows [][]int32) (*memory.Plan, error) {
	e := memory.Evaluation{Logits: logitsBytes}
	for _, m := range s.Models {
		e.Models, e.Sizes = append(e.Models, m.Model), append(e.Sizes, m.Sizes)
	}
	for _, ids := range windows {
		e.Tokens += len(ids)
		e.SeqLen = max(e.SeqLen, len(ids))
	}
	p, tokens, err := e.Plan(limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Models[0].Name, err)
	}
	s.Tokens, s.Alone, s.Experts = tokens, p.Alone, p.Experts
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
		all = slices.AppendSeq(all, slices.Chunk(byLength[n], s.Together(n, len(byLength[n]))))
	}
	return all
}

// Together is how many of windows of n tokens go through the models together.
func (s *Scoring) Together(n, windows int) int {
	if s.Tokens <= 0 {
		return windows
	}
	whole := program.Batch(n) // blocks see what they would see of all
	return max(1, s.Tokens/whole) * (whole / n)
}

// run takes windows of a length through the blocks; numbers are theirs among all.
func (m *Scored) run(ctx context.Context, w [][]int32, numbers []int, alone bool, experts int64, step func()) error {
	way := &Walk{Model: m.Model, Weights: m.Weights, Runner: m.Runner, SeqLen: len(w[0]), Alone: alone}
	if experts > 0 {
		way.Hold(experts)
	}
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

// predictions is how many tokens of windows follow on another.
func predictions(windows [][]int32) int {
	n := 0
	for _, ids := range windows {
		n += len(ids) - 1
	}
	return n
}

// add scores windows of equal length through which the models have run; numbers
// are theirs among all.
func (s *Scoring) add(ctx context.Context, w [][]int32, numbers []int) error {
	defer phases.Of(ctx).Enter(phases.Scoring)()
	defer func() {
		for _, m := range s.Models {
			m.head, m.x = nil, nil
		}
	}()
	last := len(s.Models) - 1
	for k, m := range s.Models[:max(1, last)] {
		pair := []*Scored{m}
		if last > 0 {
			pair = append(pair, s.Models[last])
		}
		for _, m := range pair {
			if m.head != nil {
				continue // the last one's, for the model before
			}
			// Not beside blocks: it is about as large as one.
			var err error
			if m.head, err = m.Model.LoadHead(m.Weights, m.embedding); err != nil {
				return err
			}
		}
		if err := s.pair(ctx, k, pair, w, numbers); err != nil {
			return err
		}
		m.head, m.x = nil, nil
	}
	return nil
}

// pair scores model k, and compares it with the last one, if that is another.
func (s *Scoring) pair(ctx context.Context, k int, pair []*Scored, w [][]int32, numbers []int) error {
	seq, vocab := len(w[0]), pair[0].Model.Vocab
	rows := seq - 1
	if s.Logits != nil {
		rows = seq
	}
	chunk := LogitsChunk(vocab, 1, rows)
	logits := make([]*tensor.Matrix, len(pair))
	nll := make([][]float64, len(pair))
	for k := range logits {
		logits[k], nll[k] = tensor.New(chunk, vocab), make([]float64, chunk)
	}
	values := make([]float64, chunk)
	for i, ids := range w {
		if err := ctx.Err(); err != nil {
			return err
		}
		for t0 := 0; t0 < rows; t0 += chunk {
			n := min(chunk, rows-t0)
			next := ids[t0+1 : t0+1+min(n, seq-1-t0)]
			for p, m := range pair {
				l := Rows(logits[p], 0, n)
				m.head.Logits(m.Runner, l, Rows(m.x, i*seq+t0, i*seq+t0+n))
				if err := likelihoods(m, l, next, nll[p], numbers[i], t0); err != nil {
					return err
				}
			}
			scored := len(next)
			s.nll[k].Add(nll[0][:scored])
			if len(pair) == 2 {
				if k == 0 {
					s.nll[len(s.nll)-1].Add(nll[1][:scored])
				}
				ours, theirs := Rows(logits[0], 0, scored), Rows(logits[1], 0, scored)
				decoder.KLs(pair[0].Runner, values[:scored], theirs, ours)
				s.kl[k].Add(values[:scored], nll[0], nll[1], decoder.SameTop(pair[0].Runner, theirs, ours))
			}
			if s.Logits != nil && k == 0 {
				if err := s.Logits(numbers[i], t0, Rows(logits[0], 0, n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// likelihoods are those of the next tokens under the logits of a model, from token t0 of
// a window on.
func likelihoods(m *Scored, logits *tensor.Matrix, next []int32, values []float64, window, t0 int) error {
	decoder.NLLs(m.Runner, values[:len(next)], Rows(logits, 0, len(next)), next)
	for t, v := range values[:len(next)] {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %w: the head gives a negative log-likelihood of %g at token %d of window %d", m.Name, ErrNotFinite, v, t0+t+1, window)
		}
	}
	return nil
}

// score is what the sums come to.
func (s *Scoring) score() (*Score, error) {
	r := &Score{Tokens: s.nll[0].Tokens()}
	if r.Tokens == 0 && s.Logits != nil { // inputs of one token: who wants logits has them
		r.Perplexity, r.Error, r.Divergence = make([]float64, len(s.nll)), make([]float64, len(s.nll)), make([]divergence.Summary, len(s.kl))
		return r, nil
	}
	var all []float64
	for k := range s.nll {
		p, err := s.nll[k].Perplexity()
		r.Perplexity, r.Error = append(r.Perplexity, p), append(r.Error, err)
	}
	all = append(all, r.Perplexity...)
	for k := range s.kl {
		d := s.kl[k].Summary()
		r.Divergence = append(r.Divergence, d)
		all = append(all, d.Mean)
	}
	for _, v := range all {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%s: %w: perplexity %g", s.Models[0].Name, ErrNotFinite, v)
		}
	}
	return r, nil
}
