// Package measure runs models on windows of token ids, and says how well they predict and
// how far they are from another model.
package measure

import (
	"cmp"
	"context"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/divergence"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Model is a model at work on windows of tokens.
type Model struct {
	walk.Scored
	src *checkpoint.Model
}

// Open takes an opened model, and closes it where that fails. bf16 is a wish, see Runner.
func Open(src *checkpoint.Model, bf16 bool, workers int) (*Model, error) {
	m, err := arch.Open(src)
	if err != nil {
		_ = src.Close()
		return nil, err
	}
	return Of(src, m, bf16, workers), nil
}

// Of is a model whose architecture is known.
func Of(src *checkpoint.Model, m *decoder.Model, bf16 bool, workers int) *Model {
	return &Model{walk.Scored{Name: src.Path(), Model: m, Weights: src, Runner: Runner(m, src, bf16, workers)}, src}
}

// Source is where the model is read from.
func (m *Model) Source() *checkpoint.Model { return m.src }

// Close closes the model's files.
func (m *Model) Close() error { return m.src.Close() }

// Runner is what runs the blocks of src. bf16 is taken for a wish:
// products are rounded to bfloat16 only if every linear layer of the blocks
// is stored in it.
func Runner(m *decoder.Model, src *checkpoint.Model, bf16 bool, workers int) *program.Runner {
	r := program.NewRunner(workers)
	r.BF16 = bf16 && BFloat16(m, src)
	return r
}

// BFloat16 reports whether the linear layers of all blocks are dense
// bfloat16.
func BFloat16(m *decoder.Model, src *checkpoint.Model) bool {
	if len(src.Quantized()) > 0 {
		return false
	}
	for _, l := range m.Linears() {
		if t, ok := src.DType(l.WeightName()); !ok || t != safetensors.BF16 {
			return false
		}
	}
	return true
}

// Tokenizer opens the tokenizer in dir, or the model's own if dir is "".
func Tokenizer(m *checkpoint.Model, dir string) (*tokenizer.Tokenizer, error) {
	if dir != "" {
		return tokenizer.Open(dir)
	}
	t, err := tokenizer.OpenFS(m.Files())
	if err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", m.Path(), err)
	}
	return t, nil
}

// Divergence says how far a model's predictions are from another's: the divergence of
// Kullback and Leibler in nats a token, its percentiles, the share of tokens whose likeliest next
// token is the same, and the ratio of the perplexities. Errors are standard errors of means over tokens, taken for
// independent.
type Divergence = divergence.Summary

// Evaluation says how well a model predicts text.
type Evaluation struct {
	// Perplexity is exp of the mean negative log-likelihood over the
	// predictions inside each window: all its tokens but the first.
	Perplexity      float64 `json:"perplexity"`
	PerplexityError float64 `json:"perplexity_error"` // its standard error, of tokens taken for independent
	// KL is the mean Kullback-Leibler divergence of the model's predictions
	// from those of the model it is compared with, in nats a token.
	KL *float64 `json:"kl,omitempty"`
	// Against is the perplexity of the model it is compared with.
	Against *float64 `json:"against_perplexity,omitempty"`
	// Divergence is what else there is to say of that.
	*Divergence
	Tokens  int `json:"tokens"` // predictions scored
	Window  int `json:"window"` // tokens a window, the longest if they differ
	Windows int `json:"windows"`
}

// Job is models to be run on windows of token ids.
type Job struct {
	// Models have the same vocabulary. Of several the last is the one that the others are
	// compared with.
	Models  []*Model
	Windows [][]int32
	// Logits, if not nil, is given the logits of the first model, float32 [tokens, vocab],
	// in pieces: those of a window that begin at token first. It must not keep
	// them. An error ends the work.
	Logits func(window, first int, logits *tensor.Matrix) error
	Memory int64                               // bytes that may be used; 0 means 80 % of what there is
	Step   func(done, total int, model string) // called after every block, if not nil
}

// Plan divides the memory; an error says how much is needed.
func (j *Job) Plan() (*memory.Plan, error) {
	_, p, err := j.scoring()
	return p, err
}

func (j *Job) scoring() (*walk.Scoring, *memory.Plan, error) {
	s := &walk.Scoring{Logits: j.Logits, Step: j.Step}
	for _, m := range j.Models {
		s.Models = append(s.Models, &m.Scored)
	}
	p, err := s.Within(cmp.Or(j.Memory, memory.Default()), j.Windows)
	return s, p, err
}

// Comparable fails where m and another model do not predict the same tokens.
func (m *Model) Comparable(with *Model) error {
	if a, b := m.Model.Vocab, with.Model.Vocab; a != b {
		return fmt.Errorf("%s has %d tokens, %s %d: they cannot be compared", m.Name, a, with.Name, b)
	}
	return nil
}

// Run runs the models and scores them: all, in their order.
func (j *Job) Run(ctx context.Context) ([]*Evaluation, error) {
	last := len(j.Models) - 1
	for _, m := range j.Models[:last] {
		if err := m.Comparable(j.Models[last]); err != nil {
			return nil, err
		}
	}
	s, plan, err := j.scoring()
	if err != nil {
		return nil, err
	}
	defer plan.Hold()()
	sum, err := s.Run(ctx, j.Windows)
	if err != nil {
		return nil, err
	}
	window := 0
	for _, ids := range j.Windows {
		window = max(window, len(ids))
	}
	var all []*Evaluation
	for k, p := range sum.Perplexity {
		e := &Evaluation{Perplexity: p, PerplexityError: sum.Error[k], Tokens: sum.Tokens, Window: window, Windows: len(j.Windows)}
		if k < last {
			d := sum.Divergence[k]
			e.KL, e.Against, e.Divergence = &d.Mean, &sum.Perplexity[last], &d
		}
		all = append(all, e)
	}
	return all, nil
}
