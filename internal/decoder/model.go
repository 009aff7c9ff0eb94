package decoder

import (
	"errors"
	"fmt"
	"math"
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
	Rope *Rope
	// Windows has the sliding attention window of each layer in tokens, the
	// current one included; 0 is full attention. nil is full attention everywhere.
	Windows []int

	// Activation is that of the MLP, by its name in config.json, in architectures
	// that llama.cpp has; "" in others.
	Activation string

	// Biases and norms that some architectures have or have not by configuration.
	QKVBias, OBias, MLPBias, QKNorm bool

	// beyond is how many blocks the files have after the last that is run: such
	// that predict tokens further ahead.
	beyond int
	// noAttention says that no block has attention.
	noAttention bool

	names names
	embed embedSpec
	head  headSpec
}

// names are those of tensors outside the blocks, and what the names of a
// block's tensors begin with.
type names struct {
	embedding, finalNorm, head, block string
	// Of those that have it, "" otherwise: the matrix behind an embedding of
	// another width [Hidden, width] and that before the head [width, Hidden],
	// learned positions [positions, Hidden], the gain of a norm behind them.
	projectIn, projectOut, positions, embedNorm string
}

// plainNames are those of most architectures.
func plainNames() names {
	return names{
		embedding: "model.embed_tokens.weight", finalNorm: "model.norm.weight", head: "lm_head.weight", block: "model.layers.%d.",
	}
}

// embedSpec says what happens to embeddings before the first block, in this
// order.
type embedSpec struct {
	scale  float64   // 0 means 1
	width  int       // of the embedding and of the head; 0 means Hidden
	offset int       // the row of learned positions for position 0
	norm   *normSpec // nil for none
}

// headSpec says what happens between the last block and the logits.
type headSpec struct {
	norm  normSpec
	none  bool    // no norm
	bias  bool    // the output matrix has one
	scale float64 // of the logits; 0 means 1
	cap   float64 // logits become cap·tanh(logit/cap); 0: they stay
}

// EmbeddingName, FinalNormName and HeadName are the names of the tensors outside
// the blocks; BlockPrefix is what the names of a block's tensors begin with.
func (c *Config) EmbeddingName() string        { return c.names.embedding }
func (c *Config) FinalNormName() string        { return c.names.finalNorm }
func (c *Config) HeadName() string             { return c.names.head }
func (c *Config) BlockPrefix(layer int) string { return fmt.Sprintf(c.names.block, layer) }

// Model is a model without weights: its configuration and its blocks.
type Model struct {
	Config
	// GGUF is what llama.cpp calls things, nil if it does not have the
	// architecture.
	GGUF   *GGUF
	Blocks []*Program
}

// Limits far above any model: they keep products of sizes far from overflow
// and a wrong file from asking for absurd memory. See also maxWidth.
const (
	maxLayers  = 1 << 14
	maxHeads   = 1 << 13
	maxExperts = 1 << 12
	allExperts = 1 << 17 // in all layers together
)

// validate checks that the values fit each other. Errors name the key of
// config.json that the value comes from.
func (c *Config) validate() error {
	type size struct {
		key        string
		value, max int
	}
	sizes := []size{
		{"hidden_size", c.Hidden, maxWidth},
		{"intermediate_size", c.Intermediate, maxWidth},
		{"num_hidden_layers", c.Layers, maxLayers},
		{"vocab_size", c.Vocab, maxWidth},
	}
	if !c.noAttention {
		sizes = append(sizes, size{"num_attention_heads", c.Heads, maxHeads},
			size{"num_key_value_heads", c.KVHeads, maxHeads}, size{"head_dim", c.HeadDim, maxWidth})
	}
	for _, s := range sizes {
		if s.value < 1 || s.value > s.max {
			return fmt.Errorf("%q: %d, want 1 to %d", s.key, s.value, s.max)
		}
	}
	if !c.noAttention && c.Heads%c.KVHeads != 0 {
		return fmt.Errorf(`"num_key_value_heads": %d does not divide num_attention_heads %d`, c.KVHeads, c.Heads)
	}
	if c.HeadDim*c.Heads > maxWidth {
		return fmt.Errorf(`"head_dim": %d times %d heads is over %d`, c.HeadDim, c.Heads, maxWidth)
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
		if 2*c.Rope.pairs() > c.HeadDim {
			return fmt.Errorf(`"head_dim": %d, want an even number`, c.HeadDim)
		}
		if err := c.Rope.validate(); err != nil {
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
func (m *Model) Linears() []LinearInfo {
	var all []LinearInfo
	for _, p := range m.Blocks {
		all = append(all, p.Linears...)
	}
	return all
}

// CheckShapes compares the shapes of all tensors that the model needs with
// the configuration, without reading any of them.
func (m *Model) CheckShapes(w Weights) error {
	c := &m.Config
	for _, t := range c.outerTensors() {
		if err := checkShape(w, t.Name, t.Shape...); err != nil {
			return err
		}
	}
	for _, p := range m.Blocks {
		if err := p.checkShapes(w); err != nil {
			return err
		}
	}
	if name := m.Blocks[0].under(w, c.BlockPrefix(c.Layers+c.beyond)); name != "" {
		return fmt.Errorf("tensor %q: num_hidden_layers is only %d", name, c.Layers)
	}
	return nil
}

// Tensors lists all tensors of the model as they are stored where nothing is
// quantized, block by block.
func (m *Model) Tensors() []TensorShape {
	var all []TensorShape
	seen := map[string]bool{}
	add := func(name string, shape []int) {
		if !seen[name] {
			seen[name] = true
			all = append(all, TensorShape{Name: name, Shape: shape})
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
func (c *Config) outerTensors() []TensorShape {
	width := c.embedWidth()
	list := []TensorShape{{Name: c.names.embedding, Shape: []int{c.Vocab, width}}}
	add := func(there bool, name string, shape ...int) {
		if there {
			list = append(list, TensorShape{Name: name, Shape: shape})
		}
	}
	e, h := &c.embed, &c.head
	add(c.names.projectIn != "", c.names.projectIn, c.Hidden, width)
	add(c.names.positions != "", c.names.positions, c.MaxPosition+e.offset, c.Hidden)
	if e.norm != nil {
		add(!e.norm.plain, c.names.embedNorm, c.Hidden)
		add(e.norm.bias, biasOf(c.names.embedNorm), c.Hidden)
	}
	add(!h.none && !h.norm.plain, c.names.finalNorm, c.Hidden)
	add(!h.none && h.norm.bias, biasOf(c.names.finalNorm), c.Hidden)
	add(c.names.projectOut != "", c.names.projectOut, width, c.Hidden)
	add(!c.Tied, c.names.head, c.Vocab, width)
	add(h.bias, biasOf(c.names.head), c.Vocab)
	return list
}

// embedWidth is the width of the embedding, and of what enters the output matrix.
func (c *Config) embedWidth() int {
	if c.embed.width > 0 {
		return c.embed.width
	}
	return c.Hidden
}

// GGUF is what llama.cpp calls an architecture and its tensors.
type GGUF struct {
	Name string // general.architecture
	// PermuteRows says that rows of q and k are stored with the pairs of a
	// rotation side by side.
	PermuteRows bool
	// Tensors are the names inside a block, by those of Hugging Face.
	Tensors map[string]string
}
