package memory

import (
	"slices"

	"github.com/golowbit/lowbit/internal/program"
)

// The curvature at the outputs of layers: see internal/curvature.

// outputs is how much the curvature of all layers takes, which lies with the streams.
func (c *Calibration) outputs() (n int64) {
	for _, b := range c.Model.Blocks {
		for _, l := range b.Linears {
			if c.Curved(l.Name) {
				n += square(l.Out)
			}
		}
	}
	return n
}

// back is what the pass through the model and back needs at once, and what is kept in
// the meantime: what enters each block, and the curvature found so far.
func (c *Calibration) back(alone bool) (most need, streams int64) {
	rows := int64(c.rows())
	for i, b := range c.Model.Blocks {
		n := need{weights: b.Bytes()}
		if !alone && i > 0 {
			n.weights += c.Model.Blocks[i-1].Bytes()
		}
		n.batch = 4*rows*int64(b.BackwardWidth(true)+2*c.Model.Hidden) + c.copied(b)
		for _, s := range c.levered(b) {
			n.stats += square(s.Width)
		}
		for _, l := range b.Linears {
			if c.Curved(l.Name) {
				n.stats += 2 * square(l.Out) // of both halves of the text
			}
		}
		most = worst(most, n)
	}
	const logits = 64 << 20 // of a few tokens, and their gradients
	most = worst(most, need{weights: 4 * int64(c.Model.Vocab) * int64(c.Model.Hidden), batch: logits})
	stream := 4 * int64(c.Tokens) * int64(c.Model.Hidden)
	return most, int64(len(c.Model.Blocks)+1)*stream + c.outputs()
}

// levered are the stages of a block whose tokens have leverages.
func (c *Calibration) levered(b *program.Program) (stages []program.Stage) {
	for _, s := range b.Stages {
		if s.Expert < 0 && slices.ContainsFunc(s.Linears, func(l int) bool { return c.Curved(b.Linears[l].Name) }) {
			stages = append(stages, s)
		}
	}
	return stages
}

// copied is the widest output of a window, or an input that is turned.
func (c *Calibration) copied(b *program.Program) (n int64) {
	for _, s := range c.levered(b) {
		n = max(n, 4*int64(s.Width)*int64(c.SeqLen))
	}
	for _, l := range b.Linears {
		if c.Curved(l.Name) {
			n = max(n, 4*int64(l.Out)*int64(c.SeqLen))
		}
	}
	return n
}

// backProducts is about how many multiplications and additions the pass takes.
func (c *Calibration) backProducts() (n float64) {
	for _, b := range c.Model.Blocks {
		for _, s := range c.levered(b) {
			n += float64(c.Tokens) * float64(s.Width) * float64(s.Width)
		}
		for _, l := range b.Linears {
			tokens := share(c.Model, l.Expert) * float64(c.Tokens)
			n += 4 * tokens * float64(l.Out) * float64(l.In)
			if c.Curved(l.Name) {
				n += tokens * float64(l.Out) * float64(l.Out) / 2
			}
		}
	}
	return n + 2*float64(c.Tokens)*float64(c.Model.Vocab)*float64(c.Model.Hidden)
}

// Weighing is c for measuring what candidates cost the layers: the text goes through the
// unquantized model, and then through it and back; of each layer one candidate is kept, and
// the errors of those of a block lie beside its weights. solve is what a candidate needs; back says
// whether the text goes back, or on from each layer.
func (c *Calibration) Weighing(solve func(out, in int) int64, back bool) *Calibration {
	w := *c
	w.Quantized, w.Paired, w.References = false, false, false
	w.Folds = func(int, int) bool { return false }
	w.ByExpert, w.Curved = false, nil
	if back {
		w.Curved = func(string) bool { return false } // nothing is kept of the way back
	}
	w.Solve = func(out, in int) int64 { return solve(out, in) + 4*int64(out)*int64(in) }
	var block int64
	for _, b := range c.Model.Blocks {
		block = max(block, b.Bytes())
		for _, l := range b.Linears {
			w.Held += int64(l.Out) * int64(l.In)
		}
	}
	w.Held += block
	return &w
}
