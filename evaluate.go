package lowbit

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/internal/wire"
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
	BF16    bool // as in Options, for dense bfloat16 models; perplexity then differs by rounding
	Workers int  // goroutines; 0 means GOMAXPROCS
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
		if other.model.Vocab != main.model.Vocab {
			return nil, fmt.Errorf("%s has %d tokens, %s %d: they cannot be compared", o.Model, main.model.Vocab, o.Against, other.model.Vocab)
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
		if _, err := tokens(words, wordsDir, main.model, o.Text); err != nil {
			return nil, err
		}
		return o.Text.IDs, nil
	}
	window := contextLength(main.model, o.Window)
	if main.model.MaxPosition > 0 && window > main.model.MaxPosition {
		return nil, fmt.Errorf("%w: window of %d tokens, but the model's context is %d", ErrOptions, window, main.model.MaxPosition)
	}
	ids, err := tokens(words, wordsDir, main.model, o.Text)
	if err != nil {
		return nil, err
	}
	w := windows(ids, window)
	if len(w) == 0 {
		return nil, fmt.Errorf("%v: %d tokens of text, want at least one window of %d", o.Text, len(ids), window)
	}
	return w, nil
}

// measure runs models on windows, those of a length together, and scores them.
func (o *EvalOptions) measure(ctx context.Context, all []*evaluated, w [][]int32) (*Evaluation, error) {
	byLength := map[int][]int{}
	for i, ids := range w {
		byLength[len(ids)] = append(byLength[len(ids)], i)
	}
	total := 0
	for _, m := range all {
		total += m.model.Layers * len(byLength)
	}
	step := 0
	s := &scores{models: all, logits: o.Logits}
	for _, n := range slices.Sorted(maps.Keys(byLength)) {
		group := make([][]int32, len(byLength[n]))
		for i, k := range byLength[n] {
			group[i] = w[k]
		}
		for _, m := range all {
			err := m.run(ctx, group, func() {
				step++
				if o.Events != nil {
					o.Events(Event{Kind: EventProgress, Done: step, Total: total, Message: m.src.Path()})
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
	return s.evaluation(w)
}

// evaluated is a model at work on windows of text.
type evaluated struct {
	src   *checkpoint.Model
	model *decoder.Model
	fwd   *program.Runner
	head  *decoder.Head
	x     *tensor.Matrix // residual stream [tokens, hidden]
}

func openEvaluated(path, base string, bf16 bool, workers int) (*evaluated, error) {
	src, err := openModel(path, base)
	if err != nil {
		return nil, err
	}
	e := &evaluated{src: src}
	if e.model, err = decoderOf(src); err != nil {
		e.close()
		return nil, err
	}
	e.fwd = newRunner(e.model, src, bf16, workers)
	return e, nil
}

func (e *evaluated) close() { _ = e.src.Close() }

// run takes all windows through the blocks.
func (e *evaluated) run(ctx context.Context, w [][]int32, step func()) error {
	way := &walk.Walk{Model: e.model, Weights: e.src, Runner: e.fwd, SeqLen: len(w[0])}
	x, embedding, err := way.Embed(w)
	if err != nil {
		return err
	}
	e.x = x
	if err := e.finite(x, "the embedding", len(w[0])); err != nil {
		return err
	}
	err = way.Blocks(ctx, e.model.Layers, func(b *program.Block) error {
		defer step()
		if err := way.Forward(ctx, b, x, nil); err != nil {
			return err
		}
		return e.finite(x, fmt.Sprintf("block %d (%s)", b.Index, strings.TrimSuffix(e.model.BlockPrefix(b.Index), ".")), len(w[0]))
	})
	if err != nil {
		return err
	}
	e.head, err = e.model.LoadHead(e.src, embedding)
	return err
}

// finite fails if rows have a NaN or an infinity, which came from where. A
// window has seq rows.
func (e *evaluated) finite(x *tensor.Matrix, where string, seq int) error {
	for i := range x.Rows {
		if j := wire.NotFinite(x.Row(i)); j >= 0 {
			return fmt.Errorf("%s: %w: %s gives %g at token %d of window %d, channel %d", e.src.Path(), ErrNotFinite, where, x.At(i, j), i%seq, i/seq, j)
		}
	}
	return nil
}

// scores sums up the predictions of one model, or of two.
type scores struct {
	models []*evaluated
	logits func(window, first int, logits *tensor.Matrix) error
	nll    [2]float64
	kl     float64
	tokens int
}

// add scores windows of equal length through which the models have run; numbers
// are theirs among all.
func (s *scores) add(ctx context.Context, w [][]int32, numbers []int) error {
	seq, vocab := len(w[0]), s.models[0].model.Vocab
	s.tokens += len(w) * (seq - 1)
	rows := seq - 1
	if s.logits != nil {
		rows = seq
	}
	// Logits are wide: take about 64 MB of them at a time.
	chunk := min(max(16, (16<<20)/vocab), rows)
	logits := make([]*tensor.Matrix, len(s.models))
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
			scored := min(n, seq-1-t0)
			for k, m := range s.models {
				l := walk.Rows(logits[k], 0, n)
				m.head.Logits(m.fwd, l, walk.Rows(m.x, i*seq+t0, i*seq+t0+n))
				decoder.NLLs(m.fwd, values[:scored], walk.Rows(l, 0, scored), ids[t0+1:t0+1+scored])
				for t, v := range values[:scored] {
					if math.IsNaN(v) || math.IsInf(v, 0) {
						return fmt.Errorf("%s: %w: the head gives a negative log-likelihood of %g at token %d of window %d", m.src.Path(), ErrNotFinite, v, t0+t+1, numbers[i])
					}
					s.nll[k] += v
				}
			}
			if len(s.models) == 2 {
				decoder.KLs(s.models[0].fwd, values[:scored], walk.Rows(logits[1], 0, scored), walk.Rows(logits[0], 0, scored))
				for _, v := range values[:scored] {
					s.kl += v
				}
			}
			if s.logits != nil {
				if err := s.logits(numbers[i], t0, walk.Rows(logits[0], 0, n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// evaluation is what the sums come to.
func (s *scores) evaluation(w [][]int32) (*Evaluation, error) {
	r := &Evaluation{Windows: len(w), Tokens: s.tokens}
	for _, ids := range w {
		r.Window = max(r.Window, len(ids))
	}
	count := float64(r.Tokens)
	r.Perplexity = math.Exp(s.nll[0] / count)
	if len(s.models) == 2 {
		other := math.Exp(s.nll[1] / count)
		s.kl /= count
		r.Against, r.KL = &other, &s.kl
	}
	for _, v := range []*float64{&r.Perplexity, r.Against, r.KL} {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
			return nil, fmt.Errorf("%s: %w: perplexity %g", s.models[0].src.Path(), ErrNotFinite, *v)
		}
	}
	return r, nil
}
