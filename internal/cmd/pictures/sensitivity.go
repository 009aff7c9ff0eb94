package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// sensitive is how much the model's loss minds errors of a layer's weights: fisher [out, in]
// is, by weight, the sum over tokens of the squared derivative of the negative log-likelihood
// of the next token, the diagonal of the empirical Fisher information.
type sensitive struct {
	block  int
	role   string
	fisher *tensor.Matrix
	// inputs is how much of the whole lies in that hundredth of the inputs in which most does,
	// outputs likewise.
	inputs, outputs float64
}

// sensitivity measures the first, the middle and the last block.
func sensitivity(ctx context.Context, o *options) ([]*sensitive, error) {
	src, err := checkpoint.Open(o.model)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	d, err := arch.Open(src)
	if err != nil {
		return nil, err
	}
	if err := walk.Reversible(d); err != nil {
		return nil, err
	}
	m := measure.Of(src, d, false, 0)
	windows, err := o.windows(m)
	if err != nil {
		return nil, err
	}
	w := &walk.Walk{Model: d, Weights: src, Runner: m.Runner, SeqLen: o.seqLen, Store: streams.New(m.Runner, streams.Unlimited, nil)}
	blocks := slices.Compact([]int{0, d.Layers / 2, d.Layers - 1})
	found := map[string]*sensitive{}
	err = w.Back(ctx, windows, &walk.Backward{
		Inputs: true, Settle: func(*program.Block) error { return nil },
		Loss: func(window, first int, logits, g *tensor.Matrix) {
			for i := range logits.Rows {
				if t := first + i + 1; t < o.seqLen {
					decoder.NLLBack(g.Row(i), logits.Row(i), windows[window][t])
				} else {
					clear(g.Row(i))
				}
			}
		},
		Gradient: func(b *program.Block, linear int, x, g *tensor.Matrix) error {
			if slices.Contains(blocks, b.Index) {
				name := b.Linears[linear].Name
				if found[name] == nil {
					found[name] = &sensitive{fisher: tensor.New(g.Cols, x.Cols)}
				}
				tensor.Gemm(true, false, 1, squares(g), squares(x), 1, found[name].fisher, m.Runner.Workers())
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	var all []*sensitive
	for _, l := range d.Linears() {
		s := found[l.Name]
		if s == nil {
			continue
		}
		if s.block, s.role, err = placeOf(l.Name); err != nil {
			return nil, err
		}
		s.concentrate()
		all = append(all, s)
	}
	return all, nil
}

// concentrate finds the shares of channels.
func (s *sensitive) concentrate() {
	rows, cols := make([]float64, s.fisher.Rows), make([]float64, s.fisher.Cols)
	for r := range rows {
		for j, v := range s.fisher.Row(r) {
			rows[r] += float64(v)
			cols[j] += float64(v)
		}
	}
	s.inputs, s.outputs = top(cols), top(rows)
}

// top is the share of the largest hundredth, of one number at least.
func top(x []float64) float64 {
	slices.Sort(x)
	var all, most float64
	for i, v := range x {
		all += v
		if i >= len(x)-max(1, len(x)/100) {
			most += v
		}
	}
	if all == 0 {
		return 0
	}
	return most / all
}

func squares(m *tensor.Matrix) *tensor.Matrix {
	s := m.Clone()
	for i, v := range s.Data {
		s.Data[i] = v * v
	}
	return s
}

// windows cuts the text.
func (o *options) windows(m *measure.Model) ([][]int32, error) {
	read := o.read()
	s := text.Source{Files: read.Files}
	shares, err := s.Tokens(func() (*tokenizer.Tokenizer, error) { return measure.Tokenizer(m.Source(), "") },
		text.Encoding{PerDocument: read.PerDocument, BOS: read.BOS}, nil, o.model, m.Model.Vocab)
	if err != nil {
		return nil, err
	}
	_, picked := text.Sample(shares, o.seqLen, o.samples)
	if len(picked) == 0 {
		return nil, fmt.Errorf("%s: %d tokens, want at least one window of %d", o.text, text.Count(shares), o.seqLen)
	}
	return picked, nil
}
