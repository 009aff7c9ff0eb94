// Package generate continues texts by a model, token by token.
package generate

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// Engine is a model whose weights are all in memory: those of quantized layers packed, the others in float32.
type Engine struct {
	Model *decoder.Model

	runner    *program.Runner
	embedding *decoder.Embedding
	head      *decoder.Head
	blocks    []*program.Block
}

// Load reads a model; layers of which w has a product of their own are not unpacked. Step, if not nil, is called after every block.
func Load(ctx context.Context, m *decoder.Model, w program.Weights, r *program.Runner, step func(done, total int)) (*Engine, error) {
	e := &Engine{Model: m, runner: r}
	var err error
	if e.embedding, err = m.LoadEmbedding(w); err != nil {
		return nil, err
	}
	if e.head, err = m.LoadHead(w, e.embedding); err != nil {
		return nil, err
	}
	for i, p := range m.Blocks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, err := p.Load(w)
		if err != nil {
			return nil, err
		}
		e.blocks = append(e.blocks, b)
		if step != nil {
			step(i+1, len(m.Blocks))
		}
	}
	return e, nil
}

// Bytes is about how much memory an Engine of a model takes, with windows of so many tokens. packed is how much a
// layer takes that is packed, 0 for others; it may be nil.
func Bytes(m *decoder.Model, packed func(layer string) int64, windows, tokens int) int64 {
	matrices := int64(2)
	if m.Tied {
		matrices = 1
	}
	n := matrices * 4 * int64(m.Vocab) * int64(m.Hidden)
	for _, p := range m.Blocks {
		n += memory.Packed(p, packed)
	}
	return n + Past(m, windows, tokens) + 4*int64(windows)*int64(m.Vocab)
}

// Past is how much of that is what is kept of the tokens.
func Past(m *decoder.Model, windows, tokens int) (n int64) {
	for _, p := range m.Blocks {
		n += int64(windows) * p.PastBytes(tokens)
	}
	return n
}

// Session is windows that grow side by side, all of the same length.
type Session struct {
	*Engine
	windows, tokens int // so far
	past            []*program.Past
}

// Start begins windows of at most so many tokens.
func (e *Engine) Start(windows, most int) *Session {
	s := &Session{Engine: e, windows: windows}
	for range e.blocks {
		s.past = append(s.past, program.NewPast(windows, most))
	}
	return s
}

// Feed adds tokens to the windows, as many to each, and writes to logits [windows, vocab] what
// the model predicts behind the last. After an error the session is of no use.
func (s *Session) Feed(ctx context.Context, ids [][]int32, logits *tensor.Matrix) error {
	n := len(ids[0])
	x := s.runner.Matrix(s.windows*n, s.Model.Hidden)
	defer s.runner.Release(x)
	for i, window := range ids {
		if len(window) != n {
			panic("generate: windows grow alike")
		}
		if err := s.embedding.EmbedFrom(x.View(i*n, (i+1)*n, 0, x.Cols), window, s.tokens); err != nil {
			return err
		}
	}
	for i, b := range s.blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.runner.Step(b, x, s.past[i])
	}
	s.tokens += n
	last := s.runner.Matrix(s.windows, x.Cols)
	defer s.runner.Release(last)
	for i := range last.Rows {
		copy(last.Row(i), x.Row((i+1)*n-1))
	}
	s.head.Next(s.runner, logits, last)
	for i := range logits.Rows {
		if v := decoder.NLL(logits.Row(i), 0); v-v != 0 {
			return fmt.Errorf("after %d tokens the model predicts NaN or an infinity", s.tokens)
		}
	}
	return nil
}
