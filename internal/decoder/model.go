package decoder

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
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
func (c *Config) EmbeddingName() string         { return c.names.embedding }
func (c *Config) FinalNormName() string         { return c.names.finalNorm }
func (c *Config) HeadName() string              { return c.names.head }
func (c *Config) BlockPrefix(layer int) string  { return sprintf(c.names.block, layer) }
func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// Architecture is one kind of model. It is put together in a file of its own.
type Architecture struct {
	Classes []string // entries of "architectures" in config.json
	Type    string   // "model_type"
	// OtherTypes are names that "model_type" has beside Type.
	OtherTypes []string
	// Read sets the configuration from config.json and returns what builds a
	// block. It is called before the configuration is validated, the builder after.
	read func(f *fields, c *Config) func(b *builder)
	// GGUF is what llama.cpp calls things, nil if it does not have the
	// architecture.
	GGUF *GGUF
}

func (a *Architecture) isType(modelType string) bool {
	return a.Type == modelType || slices.Contains(a.OtherTypes, modelType)
}

// architectures lists all that can be run.
func architectures() []*Architecture {
	return []*Architecture{
		llamaArch(), mistralArch(), qwen2Arch(), qwen3Arch(),
		mixtralArch(), qwen3MoEArch(),
		gemmaArch(), gemma2Arch(), gemma3Arch(), gemma3ImageArch(),
		phi3Arch(), smollm3Arch(), graniteArch(), olmoArch(), olmo2Arch(), olmo3Arch(),
		ministralArch(), ministral3Arch(), mistral3Arch(), stablelmArch(), seedOSSArch(),
		hunyuanArch(), cohereArch(), cohere2Arch(), starcoder2Arch(), glmArch(), glm4Arch(),
		nemotronArch(), exaone4Arch(), ernieArch(), arceeArch(), heliumArch(), apertusArch(),
		optArch(), neoxArch(), gpt2Arch(), phiArch(), falconArch(), bloomArch(),
		qwen2MoEArch(), olmoeArch(), phimoeArch(), graniteMoEArch(), graniteMoESharedArch(), gptOSSArch(),
		ernieMoEArch(), glm4MoEArch(), minimaxM2Arch(), deepseekV3Arch(), deepseekV2Arch(),
		mambaArch(), falconMambaArch(), mamba2Arch(), falconH1Arch(), nemotronHArch(), graniteHybridArch(),
		qwen3NextArch(), lfm2Arch(), minimaxArch(),
	}
}

// Supported lists the classes of all architectures that can be run.
func Supported() []string {
	var all []string
	for _, a := range architectures() {
		all = append(all, a.Classes...)
	}
	return all
}

// Model is a model without weights: its configuration and its blocks.
type Model struct {
	Config
	Arch   *Architecture
	Blocks []*Program

	read map[string]any // what the keys of config.json came to that were asked for
}

// ParseConfig reads the content of a config.json as Hugging Face transformers
// writes it, versions 4 and 5. Errors name the key. An architecture, rope
// type or activation that is not supported gives an error that wraps
// ErrUnsupported and lists what is.
func ParseConfig(data []byte) (*Model, error) {
	f, err := parseFields(nonFinite(data), "")
	if err != nil {
		return nil, err
	}
	m := &Model{Config: Config{BOS: -1, names: plainNames()}}
	if m.Arch, err = architectureOf(f); err != nil {
		return nil, err
	}
	c := &m.Config
	c.ModelType = m.Arch.Type
	block := m.Arch.read(f, c)
	m.read = f.seen
	if f.err != nil {
		return nil, f.err
	}
	if err := m.build(block); err != nil {
		return nil, err
	}
	return m, nil
}

// build validates the configuration and puts the blocks together.
func (m *Model) build(block func(*builder)) error {
	if err := m.validate(); err != nil {
		return err
	}
	for i := range m.Layers {
		b := newBuilder(&m.Config, i)
		block(b)
		if err := b.p.finish(); err != nil {
			return err
		}
		m.Blocks = append(m.Blocks, b.p)
	}
	return nil
}

func architectureOf(f *fields) (*Architecture, error) {
	stated := f.str("model_type", "")
	list := f.strs("architectures")
	if f.err != nil {
		return nil, f.err
	}
	if stated == "" && len(list) == 0 {
		return nil, errors.New(`neither "model_type" nor "architectures" is given`)
	}
	if len(list) > 1 {
		return nil, fmt.Errorf(`"architectures": %d entries, want one`, len(list))
	}
	all := architectures()
	if len(list) == 1 {
		i := slices.IndexFunc(all, func(a *Architecture) bool { return a.is(list[0]) })
		if i < 0 {
			return nil, fmt.Errorf(`"architectures": %q is %w (supported: %s)`, list[0], ErrUnsupported, strings.Join(Supported(), ", "))
		}
		if stated != "" && !all[i].isType(stated) {
			return nil, fmt.Errorf(`"model_type" %q contradicts "architectures" %q`, stated, list[0])
		}
		return all[i], nil
	}
	var types []string
	for _, a := range all {
		if a.isType(stated) {
			return a, nil
		}
		types = append(types, a.Type)
	}
	return nil, fmt.Errorf(`"model_type": %q is %w (supported: %s)`, stated, ErrUnsupported, strings.Join(types, ", "))
}

// is tells whether a class is of the architecture: one of its own, or that of its
// model without a head, which has one if the embeddings are tied.
func (a *Architecture) is(class string) bool {
	return slices.ContainsFunc(a.Classes, func(c string) bool {
		base, ok := strings.CutSuffix(c, "ForCausalLM")
		return class == c || ok && class == base+"Model"
	})
}

// Limits far above any model: they keep products of sizes far from overflow
// and a wrong file from asking for absurd memory.
const (
	maxLayers  = 1 << 14
	maxWidth   = 1 << 24
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
		if err := checkShape(w, t.path, t.shape...); err != nil {
			return err
		}
	}
	for _, p := range m.Blocks {
		if err := p.checkShapes(w); err != nil {
			return err
		}
	}
	first := m.Blocks[0]
	extra := c.BlockPrefix(c.Layers + c.beyond)
	for _, t := range first.params {
		if name := extra + t.path; w.Has(name) {
			return fmt.Errorf("tensor %q: num_hidden_layers is only %d", name, c.Layers)
		}
	}
	return nil
}

// TensorShape is a tensor that a model needs.
type TensorShape struct {
	Name  string
	Shape []int
}

// Tensors lists all tensors of the model as they are stored where nothing is
// quantized, block by block.
func (m *Model) Tensors() []TensorShape {
	var all []TensorShape
	seen := map[string]bool{}
	add := func(name string, shape []int) {
		if !seen[name] {
			seen[name] = true
			all = append(all, TensorShape{name, shape})
		}
	}
	for _, t := range m.outerTensors() {
		add(t.path, t.shape)
	}
	for _, p := range m.Blocks {
		for i, t := range p.params {
			add(p.paramName(i), t.shape)
		}
		for _, l := range p.Linears {
			s := l.Stored()
			add(s.Weight, s.WeightShape(l.In))
			if s.Bias != "" {
				add(s.Bias, s.BiasShape())
			}
		}
	}
	return all
}

// outerTensors are the tensors outside the blocks.
func (c *Config) outerTensors() []param {
	width := c.embedWidth()
	list := []param{{path: c.names.embedding, shape: []int{c.Vocab, width}}}
	add := func(there bool, name string, shape ...int) {
		if there {
			list = append(list, param{path: name, shape: shape})
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
