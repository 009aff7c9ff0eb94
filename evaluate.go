package lowbit

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// EvalOptions describe a measurement.
type EvalOptions struct {
	Model   string // folder or file, dense or quantized
	Against string // another model, with the same vocabulary, to compare with; may be ""
	// Base is the model that Model or Against is merged into, if they are LoRA
	// adapters; "" means the one that their configuration names.
	Base string
	// Tokenizer is the folder the tokenizer is read from; "" means Model.
	Tokenizer string
	Text      Text
	Window    int // tokens; 0 means 2048 or the model's context, if shorter
	// Sequences takes every entry of Text.IDs for a window of its own, of its own
	// length, and Text must have nothing else.
	Sequences bool
	// Logits, if not nil, is given the logits of Model, float32 [tokens, vocab],
	// in pieces: those of a window that begin at token first. It must not keep
	// them. An error ends the work.
	Logits  func(window, first int, logits *tensor.Matrix) error
	BF16    bool  // as in Options, for dense bfloat16 models; perplexity then differs by rounding
	Workers int   // goroutines; 0 means GOMAXPROCS
	Memory  int64 // as in Options
	Events  func(Event)
}

// Evaluation is the outcome of Evaluate.
type Evaluation struct {
	// Perplexity is exp of the mean negative log-likelihood over the
	// predictions inside each window: all its tokens but the first.
	Perplexity float64 `json:"perplexity"`
	// KL is the mean Kullback-Leibler divergence of the model's predictions
	// from those of the model it is compared with, in nats a token.
	KL *float64 `json:"kl,omitempty"`
	// Against is the perplexity of the model it is compared with.
	Against *float64 `json:"against_perplexity,omitempty"`
	Tokens  int      `json:"tokens"` // predictions scored
	Window  int      `json:"window"` // tokens a window, the longest if they differ
	Windows int      `json:"windows"`
}

// Evaluate measures a model's perplexity on text. The text is cut into
// consecutive windows that do not overlap; the ragged last one is dropped.
func Evaluate(ctx context.Context, o EvalOptions) (*Evaluation, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	base, againstBase := o.Base, ""
	if o.Against != "" && checkpoint.IsAdapter(o.Against) {
		againstBase = o.Base
		if !checkpoint.IsAdapter(o.Model) {
			base = ""
		}
	}
	main, err := openEvaluated(o.Model, base, o.BF16, o.Workers)
	if err != nil {
		return nil, err
	}
	defer main.close()
	all := []*evaluated{main}
	words, wordsDir := main.src, o.Tokenizer
	if o.Against != "" {
		other, err := openEvaluated(o.Against, againstBase, o.BF16, o.Workers)
		if err != nil {
			return nil, err
		}
		defer other.close()
		if other.Model.Vocab != main.Model.Vocab {
			return nil, fmt.Errorf("%s has %d tokens, %s %d: they cannot be compared", o.Model, main.Model.Vocab, o.Against, other.Model.Vocab)
		}
		all = append(all, other)
		// The other model's own, wherever its path leads: an adapter's lies with
		// its base.
		if o.Tokenizer == o.Against {
			words, wordsDir = other.src, ""
		}
	}
	w, err := o.windows(main, words, wordsDir)
	if err != nil {
		return nil, err
	}
	return o.measure(ctx, all, w)
}

// windows are what the model is run on.
func (o *EvalOptions) windows(main *evaluated, words *checkpoint.Model, wordsDir string) ([][]int32, error) {
	if o.Sequences {
		if _, err := tokens(words, wordsDir, main.Model, o.Text, o.Memory); err != nil {
			return nil, err
		}
		return o.Text.IDs, nil
	}
	window := contextLength(main.Model, o.Window)
	if main.Model.MaxPosition > 0 && window > main.Model.MaxPosition {
		return nil, fmt.Errorf("%w: window of %d tokens, but the model's context is %d", ErrOptions, window, main.Model.MaxPosition)
	}
	shares, err := tokens(words, wordsDir, main.Model, o.Text, o.Memory)
	if err != nil {
		return nil, err
	}
	w, _ := text.Sample(shares, window, 0)
	if len(w) == 0 {
		return nil, fmt.Errorf("%v: %d tokens of text, want at least one window of %d", o.Text, text.Count(shares), window)
	}
	return w, nil
}

// scoring is what runs models on windows, within the memory that there is.
func (o *EvalOptions) scoring(all []*evaluated, w [][]int32) (*walk.Scoring, *memory.Plan, error) {
	s := &walk.Scoring{Logits: o.Logits}
	for _, m := range all {
		s.Models = append(s.Models, &m.Scored)
	}
	if o.Events != nil {
		s.Step = func(done, total int, model string) {
			o.Events(Event{Kind: EventProgress, Done: done, Total: total, Message: model})
		}
	}
	p, err := s.Within(cmp.Or(o.Memory, memory.Default()), w)
	return s, p, err
}

// measure runs models on windows and scores them.
func (o *EvalOptions) measure(ctx context.Context, all []*evaluated, w [][]int32) (*Evaluation, error) {
	s, plan, err := o.scoring(all, w)
	if err != nil {
		return nil, err
	}
	defer plan.Hold()()
	sum, err := s.Run(ctx, w)
	if err != nil {
		return nil, err
	}
	r := &Evaluation{Perplexity: sum.Perplexity[0], Tokens: sum.Tokens, Windows: len(w)}
	for _, ids := range w {
		r.Window = max(r.Window, len(ids))
	}
	if len(all) == 2 {
		r.Against, r.KL = &sum.Perplexity[1], &sum.KL
	}
	return r, nil
}

// Measurement is text that Quantize measures its result on. If that fails the
// result does not get its name, and the error wraps ErrMeasuring.
type Measurement struct {
	Text
	Window int // tokens; 0 means 2048 or the model's context, if shorter
}

func (m Measurement) validate() error {
	switch {
	case m.Window != 0 && !m.given():
		return badOptions("windows of %d tokens, and no text to measure on", m.Window)
	case len(m.Weights) > 0:
		return badOptions("weights of texts are for calibration: all that is measured on counts alike")
	}
	if err := checkWindow(m.Window); err != nil {
		return err
	}
	return m.Text.validate()
}

// readMeasured reads the text to measure on and finds out whether the source
// can be run on it, in what memory; the result is of its shape. o keeps the tokens for a second
// attempt: a reader can be read once.
func (j *job) readMeasured(o *Options) (*memory.Plan, error) {
	if !o.Evaluation.given() {
		return nil, nil
	}
	if j.model == nil {
		return nil, fmt.Errorf("%w: text to measure on is given, and there is no decoder: %w", ErrOptions, j.refuse)
	}
	j.eval = &EvalOptions{Text: o.Evaluation.Text, Window: o.Evaluation.Window, Workers: o.Workers, Memory: o.Memory, Events: o.Events}
	source := newEvaluated(j.src, j.model, false, o.Workers)
	var err error
	if j.windows, err = j.eval.windows(source, j.src, ""); err != nil {
		return nil, err
	}
	o.Evaluation.Text = Text{IDs: j.windows}
	_, p, err := j.eval.scoring([]*evaluated{source, source}, j.windows)
	return p, err
}

// measure runs the result, which lies at path, and the source on the text that
// was read for it.
func (j *job) measure(ctx context.Context, path string) error {
	start := time.Now()
	defer func() { j.measuring += time.Since(start) }()
	src, err := checkpoint.Open(path, j.set.format)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeasuring, err)
	}
	defer src.Close()
	m, err := arch.Open(src)
	if err == nil {
		result, source := newEvaluated(src, m, false, j.set.workers), newEvaluated(j.src, j.model, false, j.set.workers)
		result.Name = j.output
		j.evaluation, err = j.eval.measure(ctx, []*evaluated{result, source}, j.windows)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeasuring, err)
	}
	return nil
}

// evaluated is a model at work on windows of text.
type evaluated struct {
	walk.Scored
	src *checkpoint.Model
}

func openEvaluated(path, base string, bf16 bool, workers int) (*evaluated, error) {
	src, err := openModel(path, base)
	if err != nil {
		return nil, err
	}
	m, err := arch.Open(src)
	if err != nil {
		_ = src.Close()
		return nil, err
	}
	return newEvaluated(src, m, bf16, workers), nil
}

func newEvaluated(src *checkpoint.Model, m *decoder.Model, bf16 bool, workers int) *evaluated {
	return &evaluated{walk.Scored{Name: src.Path(), Model: m, Weights: src, Runner: newRunner(m, src, bf16, workers)}, src}
}

func (e *evaluated) close() { _ = e.src.Close() }
