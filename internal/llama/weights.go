package llama

import (
	"fmt"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// Weights gives a model's tensors by their Hugging Face names.
type Weights interface {
	Matrix(name string) (*tensor.Matrix, error) // two dimensions, dense float32
	Vector(name string) ([]float32, error)      // one dimension
	Has(name string) bool
	Shape(name string) ([]int, bool)
}

// Names of the tensors outside the blocks.
const (
	EmbeddingName = "model.embed_tokens.weight"
	FinalNormName = "model.norm.weight"
	HeadName      = "lm_head.weight"
)

// Input says what a linear layer reads. Linears with the same Input in the
// same block see the same activations.
type Input int

// The four inputs of a block, in the order in which they come about.
const (
	AttnInput  Input = iota // of q, k, v: the normed residual stream; Hidden wide
	AttnOutput              // of o: what the heads give; QueryWidth wide
	MLPInput                // of gate, up: the normed residual stream; Hidden wide
	MLPAct                  // of down: silu(gate)*up; Intermediate wide
	Inputs                  // how many there are
)

// String returns attn, o, mlp or down.
func (i Input) String() string { return [...]string{"attn", "o", "mlp", "down"}[i] }

// Role is the place of a linear layer in its block.
type Role int

// The seven linear layers of a block, in computing order.
const (
	Q Role = iota
	K
	V
	O
	Gate
	Up
	Down
	Roles // how many there are
)

// String returns q, k, v, o, gate, up or down.
func (r Role) String() string { return [...]string{"q", "k", "v", "o", "gate", "up", "down"}[r] }

var rolePath = [...]string{
	"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
	"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
}

// LinearInfo describes a linear layer without its weights.
type LinearInfo struct {
	Name    string // as in Hugging Face, without ".weight": model.layers.0.mlp.up_proj
	Role    Role
	Input   Input
	Out, In int // the weight's shape
	Bias    bool
}

// WeightName returns the name of the layer's weight tensor.
func (l LinearInfo) WeightName() string { return l.Name + ".weight" }

// BiasName returns the name of the layer's bias tensor.
func (l LinearInfo) BiasName() string { return l.Name + ".bias" }

// BlockPrefix returns what the names of a block's tensors begin with:
// "model.layers.3.".
func BlockPrefix(layer int) string { return fmt.Sprintf("model.layers.%d.", layer) }

// Linears lists the seven linear layers of a block, by Role.
func (c *Config) Linears(layer int) []LinearInfo {
	q, kv := c.QueryWidth(), c.KVWidth()
	list := []LinearInfo{
		{Role: Q, Input: AttnInput, Out: q, In: c.Hidden, Bias: c.QKVBias},
		{Role: K, Input: AttnInput, Out: kv, In: c.Hidden, Bias: c.QKVBias},
		{Role: V, Input: AttnInput, Out: kv, In: c.Hidden, Bias: c.QKVBias},
		{Role: O, Input: AttnOutput, Out: c.Hidden, In: q, Bias: c.OBias},
		{Role: Gate, Input: MLPInput, Out: c.Intermediate, In: c.Hidden, Bias: c.MLPBias},
		{Role: Up, Input: MLPInput, Out: c.Intermediate, In: c.Hidden, Bias: c.MLPBias},
		{Role: Down, Input: MLPAct, Out: c.Hidden, In: c.Intermediate, Bias: c.MLPBias},
	}
	for i := range list {
		list[i].Name = BlockPrefix(layer) + rolePath[i]
	}
	return list
}

// Linear is y = x Weightᵀ + Bias.
type Linear struct {
	Name   string         // as LinearInfo.Name
	Weight *tensor.Matrix // [out, in]
	Bias   []float32      // [out], or nil
}

// Block is one decoder layer. It holds nothing but weights: a copy with
// another Weight in one of its linears is another block.
type Block struct {
	Index             int
	AttnNorm, MLPNorm []float32 // [Hidden]
	Q, K, V, O        Linear
	Gate, Up, Down    Linear
	QNorm, KNorm      []float32 // [HeadDim], or nil
}

// Linear returns the block's linear layer of the given role, to be read or
// replaced.
func (b *Block) Linear(r Role) *Linear {
	return [...]*Linear{&b.Q, &b.K, &b.V, &b.O, &b.Gate, &b.Up, &b.Down}[r]
}

// LoadBlock reads a block's weights and checks that all are there, have the
// shapes that the configuration asks for, and are finite.
func LoadBlock(c *Config, w Weights, layer int) (*Block, error) {
	if layer < 0 || layer >= c.Layers {
		panic("llama: no such layer")
	}
	b := &Block{Index: layer}
	prefix := BlockPrefix(layer)
	var err error
	if b.AttnNorm, err = loadVector(w, prefix+"input_layernorm.weight", c.Hidden); err != nil {
		return nil, err
	}
	if b.MLPNorm, err = loadVector(w, prefix+"post_attention_layernorm.weight", c.Hidden); err != nil {
		return nil, err
	}
	if b.QNorm, err = loadOptional(w, prefix+"self_attn.q_norm.weight", c.HeadDim, c.QKNorm); err != nil {
		return nil, err
	}
	if b.KNorm, err = loadOptional(w, prefix+"self_attn.k_norm.weight", c.HeadDim, c.QKNorm); err != nil {
		return nil, err
	}
	for _, info := range c.Linears(layer) {
		l := b.Linear(info.Role)
		l.Name = info.Name
		if l.Weight, err = loadMatrix(w, info.WeightName(), info.Out, info.In); err != nil {
			return nil, err
		}
		if l.Bias, err = loadOptional(w, info.BiasName(), info.Out, info.Bias); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// CheckShapes compares the shapes of all tensors that the model needs with
// the configuration, without reading any of them.
func CheckShapes(c *Config, w Weights) error {
	check := func(name string, want ...int) error {
		return checkShape(w, name, want...)
	}
	if err := check(EmbeddingName, c.Vocab, c.Hidden); err != nil {
		return err
	}
	if err := check(FinalNormName, c.Hidden); err != nil {
		return err
	}
	if !c.Tied {
		if err := check(HeadName, c.Vocab, c.Hidden); err != nil {
			return err
		}
	}
	for layer := range c.Layers {
		prefix := BlockPrefix(layer)
		names := []string{prefix + "input_layernorm.weight", prefix + "post_attention_layernorm.weight"}
		for _, name := range names {
			if err := check(name, c.Hidden); err != nil {
				return err
			}
		}
		if c.QKNorm {
			for _, name := range []string{prefix + "self_attn.q_norm.weight", prefix + "self_attn.k_norm.weight"} {
				if err := check(name, c.HeadDim); err != nil {
					return err
				}
			}
		}
		for _, l := range c.Linears(layer) {
			if err := check(l.WeightName(), l.Out, l.In); err != nil {
				return err
			}
			if l.Bias {
				if err := check(l.BiasName(), l.Out); err != nil {
					return err
				}
			}
		}
	}
	if extra := BlockPrefix(c.Layers) + "input_layernorm.weight"; w.Has(extra) {
		return fmt.Errorf("tensor %q: num_hidden_layers is only %d", extra, c.Layers)
	}
	return nil
}

func checkShape(w Weights, name string, want ...int) error {
	got, ok := w.Shape(name)
	if !ok {
		return fmt.Errorf("tensor %q: missing, want shape %v", name, want)
	}
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = got[i] == want[i]
	}
	if !same {
		return fmt.Errorf("tensor %q: shape %v, want %v", name, got, want)
	}
	return nil
}

func loadMatrix(w Weights, name string, rows, cols int) (*tensor.Matrix, error) {
	if err := checkShape(w, name, rows, cols); err != nil {
		return nil, err
	}
	m, err := w.Matrix(name)
	if err != nil {
		return nil, err
	}
	if m.Rows != rows || m.Cols != cols {
		return nil, fmt.Errorf("tensor %q: shape [%d %d], want [%d %d]", name, m.Rows, m.Cols, rows, cols)
	}
	for i := range rows {
		row := m.Row(i)
		if j := notFinite(row); j >= 0 {
			return nil, fmt.Errorf("tensor %q: element [%d %d] is %g, want finite weights", name, i, j, row[j])
		}
	}
	return m, nil
}

func loadVector(w Weights, name string, n int) ([]float32, error) {
	if err := checkShape(w, name, n); err != nil {
		return nil, err
	}
	v, err := w.Vector(name)
	if err != nil {
		return nil, err
	}
	if len(v) != n {
		return nil, fmt.Errorf("tensor %q: %d elements, want %d", name, len(v), n)
	}
	if j := notFinite(v); j >= 0 {
		return nil, fmt.Errorf("tensor %q: element [%d] is %g, want finite weights", name, j, v[j])
	}
	return v, nil
}

// loadOptional loads a vector that is there only if the configuration says
// so. One that is there against the configuration is let pass only if it is
// all zeros and so has no effect: to ignore another would run another model.
func loadOptional(w Weights, name string, n int, want bool) ([]float32, error) {
	if want {
		return loadVector(w, name, n)
	}
	if !w.Has(name) {
		return nil, nil
	}
	v, err := w.Vector(name)
	if err != nil {
		return nil, err
	}
	for _, x := range v {
		if x != 0 {
			return nil, fmt.Errorf("tensor %q: not foreseen by config.json, but present and not zero", name)
		}
	}
	return nil, nil
}

// notFinite returns the index of the first NaN or infinity in v, or -1.
func notFinite(v []float32) int {
	if kernel.AllFinite(v) {
		return -1
	}
	return slices.IndexFunc(v, func(x float32) bool {
		return math.IsNaN(float64(x)) || math.IsInf(float64(x), 0)
	})
}
