package lowbit

import (
	"context"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
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
	Window    int  // tokens; 0 means 2048 or the model's context, if shorter
	BF16      bool // as in Options, for dense bfloat16 models; perplexity then differs by rounding
	Workers   int  // goroutines; 0 means GOMAXPROCS
	Events    func(Event)
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
	Window  int      `json:"window"` // tokens a window
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
	total := 0
	for _, m := range all {
		total += m.model.Layers
	}
	step := 0
	for _, m := range all {
		err := m.run(ctx, w, func() {
			step++
			if o.Events != nil {
				o.Events(Event{Kind: EventProgress, Done: step, Total: total, Message: m.src.Path()})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return compare(ctx, all, w)
}

// evaluated is a model at work on windows of text.
type evaluated struct {
	src   *checkpoint.Model
	model *decoder.Model
	fwd   *decoder.Runner
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
	err = way.Blocks(ctx, e.model.Layers, func(b *decoder.Block) error {
		defer step()
		return way.Forward(ctx, b, x, nil)
	})
	if err != nil {
		return err
	}
	e.head, err = e.model.LoadHead(e.src, embedding)
	return err
}

// compare scores the predictions of one model, or of two.
func compare(ctx context.Context, all []*evaluated, w [][]int32) (*Evaluation, error) {
	seq := len(w[0])
	r := &Evaluation{Window: seq, Windows: len(w), Tokens: len(w) * (seq - 1)}
	var nll [2]float64
	var kl float64
	vocab := all[0].model.Vocab
	// Logits are wide: take about 64 MB of them at a time.
	chunk := min(max(16, (16<<20)/vocab), seq-1)
	logits := []*tensor.Matrix{tensor.New(chunk, vocab)}
	if len(all) == 2 {
		logits = append(logits, tensor.New(chunk, vocab))
	}
	scores := make([]float64, chunk)
	for i, ids := range w {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		for t0 := 0; t0 < seq-1; t0 += chunk {
			n := min(chunk, seq-1-t0)
			for k, m := range all {
				l := walk.Rows(logits[k], 0, n)
				m.fwd.Logits(m.head, l, walk.Rows(m.x, i*seq+t0, i*seq+t0+n))
				m.fwd.NLLs(scores[:n], l, ids[t0+1:t0+1+n])
				for _, s := range scores[:n] {
					nll[k] += s
				}
			}
			if len(all) == 2 {
				all[0].fwd.KLs(scores[:n], walk.Rows(logits[1], 0, n), walk.Rows(logits[0], 0, n))
				for _, s := range scores[:n] {
					kl += s
				}
			}
		}
	}
	count := float64(r.Tokens)
	r.Perplexity = math.Exp(nll[0] / count)
	if len(all) == 2 {
		other := math.Exp(nll[1] / count)
		kl /= count
		r.Against, r.KL = &other, &kl
	}
	return r, nil
}
