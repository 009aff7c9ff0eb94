// Package fold moves scales of a linear layer's input channels into what
// computes them, without changing the function of the model: into the norm
// before q, k, v or gate, up; into v before o; into up before down. Scales
// that are folded need no place in a checkpoint (AWQ, arXiv 2306.00978 §3.2;
// SmoothQuant, arXiv 2211.10438 §4).
//
// The gain of a norm multiplies after the normalization, attention is linear
// in v, and act(gate)*up is linear in up, so each of these factors moves
// exactly; which of them a block has, decoder.Fold says. What does not stay in
// memory as float32 but is stored, gains and biases, is rounded to its type
// first; the exact ratio to what it was is the factor (see Scales.Set).
package fold

import (
	"math"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// maxFactor bounds factors relative to their geometric mean, so that stored
// half-float scales of the rows before stay clear of subnormals.
const maxFactor = 256

// Round rounds a value to the type of the tensor that stores it.
type Round func(tensor string, v float32) float32

// Scales are the factors of one block: input channel j of every linear that
// reads a stage is multiplied by its factor, and column j of their weights
// divided by it. What computes the stage is multiplied by the factors. A nil
// *Scales changes nothing.
type Scales struct {
	block  *program.Block
	factor [][]float32         // by stage; nil if it has none
	stored []map[string]vector // by stage: gains and biases with the factors
}

// vector is a gain (index >= 0) or the bias of a linear.
type vector struct {
	values []float32
	index  int
	linear int
}

// New returns Scales without factors for a block, which is not changed by
// them.
func New(b *program.Block) *Scales {
	return &Scales{block: b, factor: make([][]float32, len(b.Stages)), stored: make([]map[string]vector, len(b.Stages))}
}

// Mean reduces a statistic of the channels of a stage to one for each factor,
// the mean over those that share it.
func Mean(f *program.Fold, perChannel []float32) []float32 {
	if f.Share == nil {
		return perChannel
	}
	sum := make([]float64, f.Channels)
	for j, v := range perChannel {
		sum[f.Share[j]] += float64(v)
	}
	out := make([]float32, f.Channels)
	for i, s := range sum {
		out[i] = float32(s * float64(f.Channels) / float64(len(perChannel)))
	}
	return out
}

// Set sets the factors of a stage, Fold.Channels of them; nil takes them away. A
// factor that is not positive and finite stands for one in the middle. Only
// their ratios matter: they are divided by their geometric mean. The factors
// become what the rounded gains or biases are of those they replace. A channel
// for which this is not close to what was asked, because it is out of the
// type's range, is left as it was. Where a norm has a gain and a bias, which
// would round differently, factors are powers of two.
//
// Set reports whether there are factors now; if all are alike there are not.
func (s *Scales) Set(stage int, factors []float64, round Round) bool {
	s.factor[stage], s.stored[stage] = nil, nil
	f := s.block.Stages[stage].Fold
	if factors == nil || f == nil {
		return false
	}
	if len(factors) != f.Channels {
		panic("fold: factors of the wrong length")
	}
	wanted := centered(factors)
	if wanted == nil {
		return false
	}
	s.factor[stage], s.stored[stage] = wanted, map[string]vector{}
	switch {
	case f.Before >= 0:
		s.setBias(stage, f, round)
	case len(f.Vectors()) == 1:
		s.setGain(stage, f, round)
	default:
		s.setBoth(stage, f, round)
	}
	return true
}

// setBias rounds the bias of the linear before.
func (s *Scales) setBias(stage int, f *program.Fold, round Round) {
	bias := s.block.Linear(f.Before).Bias
	if bias == nil {
		return
	}
	name := s.block.Linears[f.Before].BiasName()
	stored := append([]float32(nil), bias...)
	for i, w := range s.factor[stage] {
		if old := bias[f.Row0+i]; old != 0 {
			s.factor[stage][i], stored[f.Row0+i] = ratio(old, w, 0, name, round)
		}
	}
	s.stored[stage][name] = vector{stored, -1, f.Before}
}

// setGain rounds the gain of the norm before.
func (s *Scales) setGain(stage int, f *program.Fold, round Round) {
	index := f.Vectors()[0]
	name, old := s.block.Vector(index)
	stored := make([]float32, len(old))
	var one float32
	if f.PlusOne {
		one = 1
	}
	for i, w := range s.factor[stage] {
		s.factor[stage][i], stored[i] = ratio(old[i], w, one, name, round)
	}
	s.stored[stage][name] = vector{stored, index, -1}
}

// ratio returns the factor closest to w for which (old+one)*factor-one is a
// value of the type, with that value; 1 if there is none close by.
func ratio(old, w, one float32, name string, round Round) (factor, stored float32) {
	was := float64(old) + float64(one)
	v := round(name, float32(was*float64(w))-one)
	r := (float64(v) + float64(one)) / was
	if math.Abs(r/float64(w)-1) < 1.0/128 { // false for NaN
		return float32(r), v
	}
	return 1, old
}

// setBoth multiplies gain and bias of the norm before by powers of two.
func (s *Scales) setBoth(stage int, f *program.Fold, round Round) {
	factor := s.factor[stage]
	for i, w := range factor {
		factor[i] = float32(math.Exp2(math.Round(math.Log2(float64(w)))))
	}
	// value is a gain or bias multiplied by its factor, in float64.
	value := func(k, i int, old float32) float64 {
		w := float64(factor[i])
		if k == 0 && f.PlusOne {
			return (float64(old)+1)*w - 1
		}
		return float64(old) * w
	}
	for k, index := range f.Vectors() {
		name, old := s.block.Vector(index)
		for i, v := range old {
			if x := value(k, i, v); float64(round(name, float32(x))) != x {
				factor[i] = 1
			}
		}
	}
	for k, index := range f.Vectors() {
		name, old := s.block.Vector(index)
		stored := append([]float32(nil), old...)
		for i, v := range old {
			if factor[i] != 1 {
				stored[i] = float32(value(k, i, v))
			}
		}
		s.stored[stage][name] = vector{stored, index, -1}
	}
}

// centered divides factors by their geometric mean and bounds them. It
// returns nil if all are alike.
func centered(factors []float64) []float32 {
	usable := func(f float64) bool { return f > 0 && !math.IsInf(f, 1) }
	var sum, n float64
	for _, f := range factors {
		if usable(f) {
			sum += math.Log(f)
			n++
		}
	}
	out := make([]float32, len(factors))
	alike := true
	for i, f := range factors {
		out[i] = 1
		if usable(f) {
			// Rounded, so that the last bit of a logarithm does not matter.
			out[i] = tensor.RoundF16(float32(min(max(f/math.Exp(sum/n), 1.0/maxFactor), maxFactor)))
		}
		alike = alike && math.Abs(float64(out[i])-1) < 1e-6
	}
	if alike {
		return nil
	}
	return out
}

// Input returns the factors by which the channels of a stage are multiplied,
// as many as it is wide, or nil.
func (s *Scales) Input(stage int) []float32 {
	if s == nil || s.factor[stage] == nil {
		return nil
	}
	share := s.block.Stages[stage].Fold.Share
	if share == nil {
		return s.factor[stage]
	}
	f := make([]float32, len(share))
	for j, i := range share {
		f[j] = s.factor[stage][i]
	}
	return f
}

// Output returns the factors by which the outputs of a linear are multiplied,
// or nil.
func (s *Scales) Output(linear int) []float32 {
	if s == nil {
		return nil
	}
	stage := s.block.After(linear)
	if stage < 0 || s.factor[stage] == nil {
		return nil
	}
	f, out := s.block.Stages[stage].Fold, s.block.Linears[linear].Out
	if f.Row0 == 0 && f.Channels == out {
		return s.factor[stage]
	}
	v := make([]float32, out)
	for i := range v {
		v[i] = 1
	}
	copy(v[f.Row0:], s.factor[stage])
	return v
}

// Weight returns the weight w of a linear with the factors folded into it,
// and Restore takes them out again. Without factors they return w itself,
// and otherwise leave it as it is.
func (s *Scales) Weight(linear int, w *tensor.Matrix) *tensor.Matrix {
	return s.scaled(linear, w, func(row, in []float32, out float32) {
		for j := range row {
			f := float32(1)
			if in != nil {
				f = in[j]
			}
			row[j] = row[j] * out / f
		}
	})
}

// Restore is the inverse of Weight.
func (s *Scales) Restore(linear int, w *tensor.Matrix) *tensor.Matrix {
	return s.scaled(linear, w, func(row, in []float32, out float32) {
		for j := range row {
			f := float32(1)
			if in != nil {
				f = in[j]
			}
			row[j] = row[j] * f / out
		}
	})
}

func (s *Scales) scaled(linear int, w *tensor.Matrix, scale func(row, in []float32, out float32)) *tensor.Matrix {
	if s == nil {
		return w
	}
	in, out := s.Input(s.block.Linears[linear].Stage), s.Output(linear)
	if in == nil && out == nil {
		return w
	}
	w = w.Clone()
	for r := range w.Rows {
		f := float32(1)
		if out != nil {
			f = out[r]
		}
		scale(w.Row(r), in, f)
	}
	return w
}

// Stored returns the gains and biases that change, by the names of their
// tensors, exact in the types that Set rounded them to.
func (s *Scales) Stored() map[string][]float32 {
	changed := map[string][]float32{}
	if s == nil {
		return changed
	}
	for _, stored := range s.stored {
		for name, v := range stored {
			changed[name] = v.values
		}
	}
	return changed
}

// Block returns the block with all factors folded into it: another block of
// the same function.
func (s *Scales) Block() *program.Block {
	b := s.block.Clone()
	for i := range b.Linears {
		l := b.Linear(i)
		l.Weight = s.Weight(i, l.Weight)
	}
	for _, stored := range s.stored {
		for _, v := range stored {
			if v.index >= 0 {
				b.SetVector(v.index, v.values)
			} else {
				b.Linear(v.linear).Bias = v.values
			}
		}
	}
	return b
}
