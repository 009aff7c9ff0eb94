package llama

import (
	"errors"

	"github.com/golowbit/lowbit/tensor"
)

// Model is a whole model in memory, for those that fit. Larger ones are run
// with LoadBlock and a Runner, one block at a time.
type Model struct {
	Config    *Config
	Embedding *tensor.Matrix // [Vocab, Hidden]
	Blocks    []*Block
	Head      *Head

	runner *Runner
	x      tensor.Matrix
}

// LoadModel reads all weights. workers is as for NewRunner.
func LoadModel(c *Config, w Weights, workers int) (*Model, error) {
	r, err := NewRunner(c, workers)
	if err != nil {
		return nil, err
	}
	if err := CheckShapes(c, w); err != nil {
		return nil, err
	}
	m := &Model{Config: c, runner: r}
	if m.Embedding, err = LoadEmbedding(c, w); err != nil {
		return nil, err
	}
	for i := range c.Layers {
		b, err := LoadBlock(c, w, i)
		if err != nil {
			return nil, err
		}
		m.Blocks = append(m.Blocks, b)
	}
	if m.Head, err = LoadHead(c, w, m.Embedding); err != nil {
		return nil, err
	}
	return m, nil
}

// Hidden returns the residual stream after all blocks for ids, whole windows
// of seqLen: [len(ids), Hidden]. It is valid until the next call.
func (m *Model) Hidden(ids []int32, seqLen int) (*tensor.Matrix, error) {
	x := &m.x
	if n := len(ids) * m.Config.Hidden; cap(x.Data) < n {
		x.Data = make([]float32, n)
	}
	x.Rows, x.Cols, x.Stride = len(ids), m.Config.Hidden, m.Config.Hidden
	x.Data = x.Data[:len(ids)*m.Config.Hidden]
	if err := Embed(x, m.Embedding, ids); err != nil {
		return nil, err
	}
	for _, b := range m.Blocks {
		if err := m.runner.Forward(b, x, seqLen, nil); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// Logits returns the logits of one sequence at every position:
// [len(ids), Vocab].
func (m *Model) Logits(ids []int32) (*tensor.Matrix, error) {
	if len(ids) == 0 {
		return nil, errors.New("no tokens")
	}
	x, err := m.Hidden(ids, len(ids))
	if err != nil {
		return nil, err
	}
	logits := tensor.New(len(ids), m.Config.Vocab)
	m.runner.Logits(m.Head, logits, x)
	return logits, nil
}

// Greedy continues ids by up to n tokens, each the likeliest (of equals the
// first), and returns them without ids. It ends early after a token of
// Config.EOS, which is included. Every token costs a run over the whole
// sequence: this is for short samples.
func (m *Model) Greedy(ids []int32, n int) ([]int32, error) {
	if len(ids) == 0 {
		return nil, errors.New("no tokens")
	}
	all := append([]int32(nil), ids...)
	logits := tensor.New(1, m.Config.Vocab)
	for range n {
		x, err := m.Hidden(all, len(all))
		if err != nil {
			return nil, err
		}
		m.runner.Logits(m.Head, logits, x.View(x.Rows-1, x.Rows, 0, x.Cols))
		best := 0
		for i, v := range logits.Data {
			if v > logits.Data[best] {
				best = i
			}
		}
		all = append(all, int32(best))
		for _, eos := range m.Config.EOS {
			if best == eos {
				return all[len(ids):], nil
			}
		}
	}
	return all[len(ids):], nil
}
