package decoder

import (
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/program/stored"
)

// ErrUnsupported is wrapped by every error about a model that may be sound
// but that this package cannot run.
var ErrUnsupported = errors.New("not supported")

// Config is what config.json says about a model, in one form for all
// architectures: what those who look at a model from outside want to know.
type Config struct {
	ModelType string // as in config.json: llama, qwen3, ...

	Hidden       int // width of the residual stream
	Intermediate int // width inside the MLP
	Layers       int
	Heads        int // query heads; 0 without attention
	KVHeads      int // key and value heads; Heads is a multiple
	HeadDim      int // width of one head
	Experts      int // of a mixture; 0 if it is none
	Vocab        int
	MaxPosition  int // context the model was made for; 0 if not stated

	NormEps float64
	Tied    bool   // the output head is the embedding
	DType   string // dtype the weights were saved in, as stated: "bfloat16", "float16", "float32" or ""
	BOS     int    // as stated, -1 if there is none; small models keep numbers beyond their vocabulary
	EOS     []int

	// Rope is the rotary embedding of full attention, nil if there is none.
	Rope *program.Rope
	// Windows has the sliding attention window of each layer in tokens, the
	// current one included; 0 is full attention. nil is full attention everywhere.
	Windows []int

	// Biases and norms that some architectures have or have not by configuration.
	QKVBias, OBias, MLPBias, QKNorm bool

	// Beyond is how many blocks the files have after the last that is run: such
	// that predict tokens further ahead.
	Beyond int
	// NoAttention says that no block has attention.
	NoAttention bool

	Names Names
	Embed embedSpec
	Head  HeadSpec
}

// Names are those of tensors outside the blocks, and what the names of a
// block's tensors begin with.
type Names struct {
	Embedding, FinalNorm, Head, Block string
	// Of those that have it, "" otherwise: the matrix behind an embedding of
	// another width [Hidden, width] and that before the head [width, Hidden],
	// learned positions [positions, Hidden], the gain of a norm behind them.
	ProjectIn, ProjectOut, Positions, EmbedNorm string
}

// PlainNames are those of most architectures.
func PlainNames() Names {
	return Names{
		Embedding: "model.embed_tokens.weight", FinalNorm: "model.norm.weight", Head: "lm_head.weight", Block: "model.layers.%d.",
	}
}

// embedSpec says what happens to embeddings before the first block, in this
// order.
type embedSpec struct {
	Scale  float64       // 0 means 1
	Width  int           // of the embedding and of the head; 0 means Hidden
	Offset int           // the row of learned positions for position 0
	Norm   *program.Norm // nil for none
}

// HeadSpec says what happens between the last block and the logits.
type HeadSpec struct {
	Norm  program.Norm
	None  bool    // no norm
	Bias  bool    // the output matrix has one
	Scale float64 // of the logits; 0 means 1
	Cap   float64 // logits become cap·tanh(logit/cap); 0: they stay
}

// EmbeddingName, FinalNormName and HeadName are the names of the tensors outside
// the blocks; BlockPrefix is what the names of a block's tensors begin with.
func (c *Config) EmbeddingName() string        { return c.Names.Embedding }
func (c *Config) FinalNormName() string        { return c.Names.FinalNorm }
func (c *Config) HeadName() string             { return c.Names.Head }
func (c *Config) BlockPrefix(layer int) string { return fmt.Sprintf(c.Names.Block, layer) }

// Model is a model without weights: its configuration and its blocks.
type Model struct {
	Config
	// GGUF is what llama.cpp calls things, nil if it does not have the
	// architecture.
	GGUF   *GGUF
	Blocks []*program.Program
	// Read is what the keys of config.json came to that were asked for.
	Read map[string]any
}

// Limits far above any model: they keep products of sizes far from overflow
// and a wrong file from asking for absurd memory. See also MaxWidth.
const (
	MaxLayers  = 1 << 14
	MaxHeads   = 1 << 13
	maxExperts = 1 << 12
	allExperts = 1 << 17 // in all layers together
)

// Validate checks that the values fit each other. Errors name the key of
// config.json that the value comes from.
func (c *Config) Validate() error {
	type size struct {
		key        string
		value, max int
	}
	sizes := []size{
		{"hidden_size", c.Hidden, program.MaxWidth},
		{"intermediate_size", c.Intermediate, program.MaxWidth},
		{"num_hidden_layers", c.Layers, MaxLayers},
		{"vocab_size", c.Vocab, program.MaxWidth},
	}
	if !c.NoAttention {
		sizes = append(sizes, size{"num_attention_heads", c.Heads, MaxHeads},
			size{"num_key_value_heads", c.KVHeads, MaxHeads}, size{"head_dim", c.HeadDim, program.MaxWidth})
	}
	for _, s := range sizes {
		if s.value < 1 || s.value > s.max {
			return fmt.Errorf("%q: %d, want 1 to %d", s.key, s.value, s.max)
		}
	}
	if !c.NoAttention && c.Heads%c.KVHeads != 0 {
		return fmt.Errorf(`"num_key_value_heads": %d does not divide num_attention_heads %d`, c.KVHeads, c.Heads)
	}
	if c.HeadDim*c.Heads > program.MaxWidth {
		return fmt.Errorf(`"head_dim": %d times %d heads is over %d`, c.HeadDim, c.Heads, program.MaxWidth)
	}
	if c.Experts < 0 || c.Experts > maxExperts {
		return fmt.Errorf(`"num_experts": %d, want 0 to %d`, c.Experts, maxExperts)
	}
	if c.Experts*c.Layers > allExperts {
		return fmt.Errorf(`"num_experts": %d in %d layers are over %d`, c.Experts, c.Layers, allExperts)
	}
	if c.MaxPosition < 0 {
		return fmt.Errorf(`"max_position_embeddings": %d, want a positive number`, c.MaxPosition)
	}
	if !(c.NormEps > 0) || c.NormEps > 1 || math.IsNaN(c.NormEps) {
		return fmt.Errorf(`"rms_norm_eps": %g, want a small positive number`, c.NormEps)
	}
	if c.Rope != nil {
		if 2*c.Rope.Pairs() > c.HeadDim {
			return fmt.Errorf(`"head_dim": %d, want an even number`, c.HeadDim)
		}
		if err := c.Rope.Validate(); err != nil {
			return err
		}
	}
	for i, w := range c.Windows {
		if w < 0 {
			return fmt.Errorf(`"sliding_window": %d in layer %d, want a positive number`, w, i)
		}
	}
	return nil
}

// Window returns the sliding attention window of a layer in tokens, the
// current token included, or 0 for full attention.
func (c *Config) Window(layer int) int {
	if c.Windows == nil {
		return 0
	}
	return c.Windows[layer]
}

// QueryWidth returns the width of all query heads together: Heads*HeadDim.
func (c *Config) QueryWidth() int { return c.Heads * c.HeadDim }

// KVWidth returns the width of all key (or value) heads together: KVHeads*HeadDim.
func (c *Config) KVWidth() int { return c.KVHeads * c.HeadDim }

// Linears lists all linear layers of the model, block by block.
func (m *Model) Linears() []program.LinearInfo {
	var all []program.LinearInfo
	for _, p := range m.Blocks {
		all = append(all, p.Linears...)
	}
	return all
}

// CheckShapes compares the shapes of all tensors that the model needs with
// the configuration, without reading any of them.
func (m *Model) CheckShapes(w program.Weights) error {
	c := &m.Config
	for _, t := range c.outerTensors() {
		if err := stored.CheckShape(w, t.Name, t.Shape...); err != nil {
			return err
		}
	}
	for _, p := range m.Blocks {
		if err := p.CheckShapes(w); err != nil {
			return err
		}
	}
	if name := m.Blocks[0].Under(w, c.BlockPrefix(c.Layers+c.Beyond)); name != "" {
		return fmt.Errorf("tensor %q: num_hidden_layers is only %d", name, c.Layers)
	}
	return nil
}

// Tensors lists all tensors of the model as they are stored where nothing is
// quantized, block by block.
func (m *Model) Tensors() []program.TensorShape {
	var all []program.TensorShape
	seen := map[string]bool{}
	add := func(name string, shape []int) {
		if !seen[name] {
			seen[name] = true
			all = append(all, program.TensorShape{Name: name, Shape: shape})
		}
	}
	for _, t := range m.outerTensors() {
		add(t.Name, t.Shape)
	}
	for _, p := range m.Blocks {
		for _, t := range p.Tensors() {
			add(t.Name, t.Shape)
		}
	}
	return all
}

// outerTensors are the tensors outside the blocks.
func (c *Config) outerTensors() []program.TensorShape {
	width := c.embedWidth()
	list := []program.TensorShape{{Name: c.Names.Embedding, Shape: []int{c.Vocab, width}}}
	add := func(there bool, name string, shape ...int) {
		if there {
			list = append(list, program.TensorShape{Name: name, Shape: shape})
		}
	}
	e, h := &c.Embed, &c.Head
	add(c.Names.ProjectIn != "", c.Names.ProjectIn, c.Hidden, width)
	add(c.Names.Positions != "", c.Names.Positions, c.MaxPosition+e.Offset, c.Hidden)
	if e.Norm != nil {
		add(!e.Norm.Plain, c.Names.EmbedNorm, c.Hidden)
		add(e.Norm.Bias, biasOf(c.Names.EmbedNorm), c.Hidden)
	}
	add(!h.None && !h.Norm.Plain, c.Names.FinalNorm, c.Hidden)
	add(!h.None && h.Norm.Bias, biasOf(c.Names.FinalNorm), c.Hidden)
	add(c.Names.ProjectOut != "", c.Names.ProjectOut, width, c.Hidden)
	add(!c.Tied, c.Names.Head, c.Vocab, width)
	add(h.Bias, biasOf(c.Names.Head), c.Vocab)
	return list
}

// embedWidth is the width of the embedding, and of what enters the output matrix.
func (c *Config) embedWidth() int {
	if c.Embed.Width > 0 {
		return c.Embed.Width
	}
	return c.Hidden
}
