package lowbit

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/checkpoint/modelcard"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/text"
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
	Logits func(window, first int, logits *tensor.Matrix) error
	// Int8Inputs, if not nil, has Model multiply quantized linears by inputs that are
	// rounded to 8 bits a token, but for outliers from this magnitude on (0: none), as
	// LLM.int8() does: see llmint8.Linear. All its quantized linears must have 8 bits
	// with a scale for each output; the error otherwise wraps layout.ErrUnsupported.
	Int8Inputs *float32
	// Packed has quantized linears multiplied from their codes, of which a block in memory then
	// consists; results differ by rounding. It does not go with Int8Inputs.
	Packed bool

	BF16    bool  // as in Options, for dense bfloat16 models; perplexity then differs by rounding
	Workers int   // goroutines; 0 means GOMAXPROCS
	Memory  int64 // as in Options
	Events  func(Event)
}

// Evaluation is the outcome of Evaluate.
type Evaluation = measure.Evaluation

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
	main, err := o.open(o.Model, base)
	if err != nil {
		return nil, err
	}
	defer main.Close()
	if o.Int8Inputs != nil {
		if err := main.Int8Inputs(*o.Int8Inputs); err != nil {
			return nil, err
		}
	}
	all := []*measure.Model{main}
	words, wordsDir := main.Source(), o.Tokenizer
	if o.Against != "" {
		other, err := o.open(o.Against, againstBase)
		if err != nil {
			return nil, err
		}
		defer other.Close()
		if err := main.Comparable(other); err != nil { // before any text is read
			return nil, err
		}
		all = append(all, other)
		// The other model's own, wherever its path leads: an adapter's lies with
		// its base.
		if o.Tokenizer == o.Against {
			words, wordsDir = other.Source(), ""
		}
	}
	w, err := o.windows(main, words, wordsDir)
	if err != nil {
		return nil, err
	}
	e, err := o.job(all, w).Run(ctx)
	if err != nil {
		return nil, err
	}
	return e[0], nil
}

// open opens a model to run it.
func (o *EvalOptions) open(path, base string) (*measure.Model, error) {
	src, err := openModel(path, base)
	if err != nil {
		return nil, err
	}
	m, err := measure.Open(src, o.BF16, o.Workers)
	if err == nil && o.Packed {
		m.Packed()
	}
	return m, err
}

// windows are what the model is run on.
func (o *EvalOptions) windows(main *measure.Model, words *checkpoint.Model, wordsDir string) ([][]int32, error) {
	if o.Sequences {
		_, err := tokens(words, wordsDir, main.Model, o.Text, o.Memory)
		return o.Text.IDs, err
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

// job is to run models on windows.
func (o *EvalOptions) job(all []*measure.Model, w [][]int32) *measure.Job {
	j := &measure.Job{Models: all, Windows: w, Logits: o.Logits, Memory: o.Memory}
	if o.Events != nil {
		j.Step = func(done, total int, model string) {
			o.Events(Event{Kind: EventProgress, Done: done, Total: total, Message: model})
		}
	}
	return j
}

// Measurement is text that Quantize measures its result on. If that fails the
// result does not get its name, and the error wraps ErrMeasuring.
type Measurement struct {
	Text
	Window int // tokens; 0 means 2048 or the model's context, if shorter
}

func (m Measurement) validate() error {
	switch {
	case m.Window != 0 && !m.Given():
		return badOptions("windows of %d tokens, and no text to measure on", m.Window)
	case len(m.Weights) > 0:
		return badOptions("weights of texts are for calibration: all that is measured on counts alike")
	}
	if err := checkWindow(m.Window); err != nil {
		return err
	}
	return m.Text.Validate()
}

// readMeasured reads the text to measure on and finds out whether the source
// can be run on it, in what memory; the result is of its shape. o keeps the tokens for a second
// attempt: a reader can be read once.
func (j *job) readMeasured(o *Options) (*memory.Plan, error) {
	if !o.Evaluation.Given() {
		return nil, nil
	}
	if j.model == nil {
		return nil, fmt.Errorf("%w: text to measure on is given, and there is no decoder: %w", ErrOptions, j.refuse)
	}
	j.eval = &EvalOptions{Text: o.Evaluation.Text, Window: o.Evaluation.Window, Workers: o.Workers, Memory: o.Memory, Events: o.Events}
	source := measure.Of(j.src, j.model, false, o.Workers)
	var err error
	if j.windows, err = j.eval.windows(source, j.src, ""); err != nil {
		return nil, err
	}
	o.Evaluation.Text = Text{IDs: j.windows}
	return j.eval.job([]*measure.Model{source, source}, j.windows).Plan()
}

// ready measures the complete result, which lies at path, and writes its model card.
func (j *job) ready(ctx context.Context, path string) error {
	if err := j.measure(ctx, path); err != nil {
		return err
	}
	r := j.report()
	return modelcard.Write(path, j.src, modelcard.Made{Format: j.set.format, Settings: r.Settings, Bits: r.BitsPerWeight, Before: r.BytesBefore, Tokens: r.Tokens, Engines: r.Engines, Evaluation: r.Evaluation})
}

// measure runs the result, which lies at path, and the source on the text that
// was read for it, if there is any.
func (j *job) measure(ctx context.Context, path string) error {
	if j.eval == nil {
		return nil
	}
	defer phases.Of(ctx).Whole(phases.Evaluation)()
	src, err := checkpoint.Open(path, j.set.format)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeasuring, err)
	}
	defer src.Close()
	result, err := measure.Open(src, false, j.set.workers)
	if err == nil {
		result.Name = j.output
		var e []*Evaluation
		if e, err = j.eval.job([]*measure.Model{result, measure.Of(j.src, j.model, false, j.set.workers)}, j.windows).Run(ctx); err == nil {
			j.evaluation = e[0]
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMeasuring, err)
	}
	return nil
}
