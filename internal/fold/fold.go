// Package fold moves scales of a linear layer's input channels into what
// computes them, without changing the function of the model: into the norm
// before q, k, v or gate, up; into v before o; into up before down. Scales
// that are folded need no place in a checkpoint (AWQ, arXiv 2306.00978 §3.2;
// SmoothQuant, arXiv 2211.10438 §4).
//
// The gain of a norm multiplies after the normalization, attention is linear
// in v, and silu(gate)*up is linear in up, so each of these factors moves
// exactly. What does not stay in memory as float32 but is stored, gains and
// biases, is rounded to its type first; the exact ratio to what it was is
// the factor (see Scales.Set).
package fold

import (
	"math"

	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/tensor"
)

// maxFactor bounds factors relative to their geometric mean, so that stored
// half-float scales of the rows before stay clear of subnormals.
const maxFactor = 256

// Scales are the factors of one block: input channel j of every linear that
// reads an input is multiplied by its factor, and column j of their weights
// divided by it. Row r of v or up, which computes the input, is multiplied
// by the factor. A nil *Scales changes nothing.
type Scales struct {
	cfg    *llama.Config
	block  *llama.Block
	factor [llama.Inputs][]float32 // by channel (see Channels), or nil
	stored [llama.Inputs][]float32 // gain or bias with the factor, or nil
}

// New returns Scales without factors for a block, which is not changed by
// them.
func New(c *llama.Config, b *llama.Block) *Scales { return &Scales{cfg: c, block: b} }

// Channels is how many factors an input has. All query heads that share a
// key and value head share the factors of o's input.
func Channels(c *llama.Config, in llama.Input) int {
	switch in {
	case llama.AttnOutput:
		return c.KVWidth()
	case llama.MLPAct:
		return c.Intermediate
	}
	return c.Hidden
}

// channel is the factor that input channel j of a linear takes.
func channel(c *llama.Config, in llama.Input, j int) int {
	if in != llama.AttnOutput {
		return j
	}
	return j/c.HeadDim/(c.Heads/c.KVHeads)*c.HeadDim + j%c.HeadDim
}

// Mean reduces a statistic of the input channels of a linear to one for each
// factor, the mean over those that share it.
func Mean(c *llama.Config, in llama.Input, perInput []float32) []float32 {
	n := Channels(c, in)
	if len(perInput) == n {
		return perInput
	}
	sum := make([]float64, n)
	for j, v := range perInput {
		sum[channel(c, in, j)] += float64(v)
	}
	out := make([]float32, n)
	for i, s := range sum {
		out[i] = float32(s * float64(n) / float64(len(perInput)))
	}
	return out
}

// Before is the linear whose rows take the factors of an input; ok is false
// if a norm takes them.
func Before(in llama.Input) (role llama.Role, ok bool) {
	switch in {
	case llama.AttnOutput:
		return llama.V, true
	case llama.MLPAct:
		return llama.Up, true
	}
	return 0, false
}

// After is the input whose factors the rows of a linear take; ok is false if
// there is none.
func After(role llama.Role) (in llama.Input, ok bool) {
	switch role {
	case llama.V:
		return llama.AttnOutput, true
	case llama.Up:
		return llama.MLPAct, true
	}
	return 0, false
}

// carrier is the vector that is stored with the factors of an input: a gain
// or the bias of the linear before, which may be nil.
func carrier(b *llama.Block, in llama.Input) (name string, v []float32) {
	switch in {
	case llama.AttnInput:
		return llama.BlockPrefix(b.Index) + "input_layernorm.weight", b.AttnNorm
	case llama.MLPInput:
		return llama.BlockPrefix(b.Index) + "post_attention_layernorm.weight", b.MLPNorm
	}
	role, _ := Before(in)
	l := b.Linear(role)
	return l.Name + ".bias", l.Bias
}

// Into names what takes the factors of an input, for messages.
func Into(in llama.Input) string {
	return [...]string{"input_layernorm", "self_attn.v_proj", "post_attention_layernorm", "mlp.up_proj"}[in]
}

// Carrier names the tensor that is stored with the factors of an input; ok
// is false if the block has none.
func Carrier(b *llama.Block, in llama.Input) (name string, ok bool) {
	name, v := carrier(b, in)
	return name, v != nil
}

// Set sets the factors of an input, Channels of them; nil takes them away. A
// factor that is not positive and finite stands for one in the middle. Only
// their ratios matter: they are divided by their geometric mean. round rounds
// to the type of the tensor that Carrier names; the factors become what the
// rounded vector is of the one it replaces. A channel for which this is not
// close to what was asked, because it is out of the type's range, is left as
// it was.
//
// Set reports whether there are factors now; if all are alike there are not.
func (s *Scales) Set(in llama.Input, factors []float64, round func(float32) float32) bool {
	s.factor[in], s.stored[in] = nil, nil
	if factors == nil {
		return false
	}
	if len(factors) != Channels(s.cfg, in) {
		panic("fold: factors of the wrong length")
	}
	wanted := centered(factors)
	if wanted == nil {
		return false
	}
	_, old := carrier(s.block, in)
	if old == nil {
		s.factor[in] = wanted
		return true
	}
	_, isBias := Before(in)
	exact, stored := make([]float32, len(wanted)), make([]float32, len(wanted))
	for i, f := range wanted {
		if isBias && old[i] == 0 {
			exact[i] = f
			continue
		}
		exact[i], stored[i] = 1, old[i]
		v := round(old[i] * f)
		ratio := float64(v) / float64(old[i])
		if math.Abs(ratio/float64(f)-1) < 1.0/128 { // false for NaN
			exact[i], stored[i] = float32(ratio), v
		}
	}
	s.factor[in], s.stored[in] = exact, stored
	return true
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

// Input returns the factors by which the input channels of a linear are
// multiplied, as wide as the input, or nil.
func (s *Scales) Input(in llama.Input) []float32 {
	if s == nil || s.factor[in] == nil {
		return nil
	}
	if in != llama.AttnOutput {
		return s.factor[in]
	}
	f := make([]float32, s.cfg.QueryWidth())
	for j := range f {
		f[j] = s.factor[in][channel(s.cfg, in, j)]
	}
	return f
}

// Output returns the factors by which the outputs of a linear are
// multiplied, or nil.
func (s *Scales) Output(role llama.Role) []float32 {
	if in, ok := After(role); ok && s != nil {
		return s.factor[in]
	}
	return nil
}

// Weight returns the weight w of a linear with the factors folded into it,
// and Restore takes them out again. Without factors they return w itself,
// and otherwise leave it as it is.
func (s *Scales) Weight(role llama.Role, w *tensor.Matrix) *tensor.Matrix {
	return s.scaled(role, w, func(row, in []float32, out float32) {
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
func (s *Scales) Restore(role llama.Role, w *tensor.Matrix) *tensor.Matrix {
	return s.scaled(role, w, func(row, in []float32, out float32) {
		for j := range row {
			f := float32(1)
			if in != nil {
				f = in[j]
			}
			row[j] = row[j] * f / out
		}
	})
}

func (s *Scales) scaled(role llama.Role, w *tensor.Matrix, scale func(row, in []float32, out float32)) *tensor.Matrix {
	in, out := s.Input(InputOf(role)), s.Output(role)
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

// InputOf is the input that a linear reads.
func InputOf(role llama.Role) llama.Input {
	switch role {
	case llama.Q, llama.K, llama.V:
		return llama.AttnInput
	case llama.O:
		return llama.AttnOutput
	case llama.Down:
		return llama.MLPAct
	}
	return llama.MLPInput
}

// Stored returns the gains and biases that change, by the names of their
// tensors, exact in the types that Set rounded them to.
func (s *Scales) Stored() map[string][]float32 {
	changed := map[string][]float32{}
	if s == nil {
		return changed
	}
	for in, v := range s.stored {
		if v != nil {
			name, _ := carrier(s.block, llama.Input(in))
			changed[name] = v
		}
	}
	return changed
}

// Block returns the block with all factors folded into it: another block of
// the same function.
func (s *Scales) Block() *llama.Block {
	b := *s.block
	for role := range llama.Roles {
		l := b.Linear(role)
		l.Weight = s.Weight(role, l.Weight)
	}
	for in, v := range s.stored {
		if v == nil {
			continue
		}
		switch in := llama.Input(in); in {
		case llama.AttnInput:
			b.AttnNorm = v
		case llama.MLPInput:
			b.MLPNorm = v
		default:
			role, _ := Before(in)
			b.Linear(role).Bias = v
		}
	}
	return &b
}
