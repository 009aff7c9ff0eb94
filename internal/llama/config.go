package llama

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

// ErrUnsupported is wrapped by every error about a model that may be sound
// but that this package cannot run.
var ErrUnsupported = errors.New("not supported")

// Config is what config.json says about a model, in one form for all
// supported architectures. Use ReadConfig or ParseConfig, or fill it and call
// Validate.
type Config struct {
	ModelType string // llama, mistral, qwen2 or qwen3

	Hidden       int // width of the residual stream
	Intermediate int // width inside the MLP
	Layers       int
	Heads        int // query heads
	KVHeads      int // key and value heads; Heads is a multiple
	HeadDim      int // width of one head; even
	Vocab        int
	MaxPosition  int // context the model was made for; 0 if not stated

	NormEps   float64
	RopeTheta float64
	Rope      RopeScaling

	Tied    bool // the output head is the embedding
	QKVBias bool // q, k and v have biases
	OBias   bool
	MLPBias bool // gate, up and down have biases
	QKNorm  bool // RMSNorm over each head of q and k before the rotation

	// Windows has the sliding attention window of each layer in tokens, the
	// current one included; 0 is full attention. nil is full attention everywhere.
	Windows []int

	DType string // dtype the weights were saved in, as stated: "bfloat16", "float16", "float32" or ""
	BOS   int    // -1 if there is none
	EOS   []int
}

// RopeScaling changes the rotary frequencies for contexts longer than the
// model was first trained on.
type RopeScaling struct {
	Type   string  // "" (none), "linear" or "llama3"
	Factor float64 // linear, llama3: at least 1

	// llama3 only: frequencies whose wavelength is below
	// OriginalMaxPosition/HighFreqFactor stay, those above
	// OriginalMaxPosition/LowFreqFactor are divided by Factor, between them
	// the two are blended.
	LowFreqFactor       float64
	HighFreqFactor      float64
	OriginalMaxPosition int
}

const (
	supportedArchitectures = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
	supportedRope          = "default, linear, llama3"
)

// architectures maps the supported entries of "architectures" to their model_type.
var architectures = map[string]string{
	"LlamaForCausalLM":   "llama",
	"MistralForCausalLM": "mistral",
	"Qwen2ForCausalLM":   "qwen2",
	"Qwen3ForCausalLM":   "qwen3",
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

// ReadConfig reads config.json of the model folder dir.
func ReadConfig(dir string) (*Config, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads the content of a config.json as Hugging Face transformers
// writes it, versions 4 and 5. Errors name the key. An architecture, rope
// type or activation that is not supported gives an error that wraps
// ErrUnsupported and lists what is.
func ParseConfig(data []byte) (*Config, error) {
	f, err := parseFields(data, "")
	if err != nil {
		return nil, err
	}
	c := &Config{BOS: -1}
	if c.ModelType, err = modelType(f); err != nil {
		return nil, err
	}
	c.readShape(f)
	c.readRope(f)
	c.readVariant(f)
	c.readWindows(f)
	if f.err != nil {
		return nil, f.err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

func modelType(f *fields) (string, error) {
	stated := f.str("model_type", "")
	list := f.strs("architectures")
	if f.err != nil {
		return "", f.err
	}
	if stated == "" && len(list) == 0 {
		return "", errors.New(`neither "model_type" nor "architectures" is given`)
	}
	if len(list) > 1 {
		return "", fmt.Errorf(`"architectures": %d entries, want one`, len(list))
	}
	if len(list) == 1 {
		t, ok := architectures[list[0]]
		if !ok {
			return "", fmt.Errorf(`"architectures": %q is %w (supported: %s)`, list[0], ErrUnsupported, supportedArchitectures)
		}
		if stated != "" && stated != t {
			return "", fmt.Errorf(`"model_type" %q contradicts "architectures" %q`, stated, list[0])
		}
		return t, nil
	}
	for _, t := range architectures {
		if t == stated {
			return t, nil
		}
	}
	return "", fmt.Errorf(`"model_type": %q is %w (supported: llama, mistral, qwen2, qwen3)`, stated, ErrUnsupported)
}

func (c *Config) readShape(f *fields) {
	c.Hidden = f.need("hidden_size")
	c.Intermediate = f.need("intermediate_size")
	c.Layers = f.need("num_hidden_layers")
	c.Heads = f.need("num_attention_heads")
	c.Vocab = f.need("vocab_size")
	// The defaults are those of transformers' config classes.
	kv := c.Heads
	if f.absent("num_key_value_heads") {
		switch c.ModelType {
		case "mistral":
			kv = 8
		case "qwen2", "qwen3":
			kv = 32
		}
	}
	c.KVHeads = f.int("num_key_value_heads", kv)
	c.MaxPosition = f.int("max_position_embeddings", 0)
	if c.HeadDim = f.int("head_dim", 0); f.null("head_dim") && f.err == nil {
		switch {
		case c.ModelType == "qwen3" && f.absent("head_dim"):
			c.HeadDim = 128
		case c.Heads > 0 && c.Hidden%c.Heads == 0:
			c.HeadDim = c.Hidden / c.Heads
		default:
			f.fail("num_attention_heads", "%d does not divide hidden_size %d and there is no head_dim", c.Heads, c.Hidden)
		}
	}
	c.NormEps = f.float("rms_norm_eps", 1e-6)
	c.DType = f.str("torch_dtype", "")
	c.DType = f.str("dtype", c.DType)
	c.BOS = f.int("bos_token_id", -1)
	c.EOS = f.ints("eos_token_id")
	if act := f.str("hidden_act", "silu"); f.err == nil && act != "silu" && act != "swish" {
		f.unsupported("hidden_act", act, "silu")
	}
	c.Tied = f.bool("tie_word_embeddings", false)
}

// readVariant sets what the architectures do not have in common.
func (c *Config) readVariant(f *fields) {
	switch c.ModelType {
	case "llama":
		c.QKVBias = f.bool("attention_bias", false)
		c.OBias = c.QKVBias
		c.MLPBias = f.bool("mlp_bias", false)
	case "qwen2":
		c.QKVBias = true
	case "qwen3":
		c.QKNorm = true
		c.QKVBias = f.bool("attention_bias", false)
		c.OBias = c.QKVBias
	}
}

// readRope reads the rotary embedding: rope_theta and rope_scaling up to
// transformers 4, one object rope_parameters since 5.
func (c *Config) readRope(f *fields) {
	c.RopeTheta = f.float("rope_theta", 10000)
	theta := !f.null("rope_theta")
	f.mustBeOne("partial_rotary_factor")
	old, new := f.object("rope_scaling"), f.object("rope_parameters")
	if f.err != nil {
		return
	}
	var first RopeScaling
	if old != nil {
		first = readScaling(f, old)
		c.Rope = first
		// transformers 5 accepts the new object under the old key.
		if t := old.float("rope_theta", c.RopeTheta); !old.null("rope_theta") {
			if theta && t != c.RopeTheta {
				old.fail("rope_theta", "%g contradicts rope_theta %g", t, c.RopeTheta)
			}
			c.RopeTheta, theta = t, true
		}
		f.take(old)
	}
	if new != nil {
		c.Rope = readScaling(f, new)
		if t := new.float("rope_theta", c.RopeTheta); !new.null("rope_theta") {
			if theta && t != c.RopeTheta {
				new.fail("rope_theta", "%g contradicts rope_theta %g", t, c.RopeTheta)
			}
			c.RopeTheta = t
		}
		f.take(new)
		if old != nil && first != c.Rope {
			f.fail("rope_parameters", "contradicts rope_scaling")
		}
	}
}

func readScaling(f, s *fields) RopeScaling {
	var r RopeScaling
	r.Type = s.str("rope_type", s.str("type", "default"))
	s.mustBeOne("partial_rotary_factor")
	switch r.Type {
	case "default":
		r.Type = ""
	case "linear":
		r.Factor = s.needFloat("factor")
	case "llama3":
		r.Factor = s.needFloat("factor")
		r.LowFreqFactor = s.needFloat("low_freq_factor")
		r.HighFreqFactor = s.needFloat("high_freq_factor")
		r.OriginalMaxPosition = s.need("original_max_position_embeddings")
	default:
		s.unsupported("rope_type", r.Type, supportedRope)
	}
	f.take(s)
	return r
}

func (c *Config) readWindows(f *fields) {
	if f.err != nil {
		return
	}
	types := f.strs("layer_types")
	if f.err == nil && types != nil && len(types) != c.Layers {
		f.fail("layer_types", "%d entries, want num_hidden_layers %d", len(types), c.Layers)
	}
	window, from := 0, 0
	switch c.ModelType {
	case "mistral":
		if f.absent("sliding_window") {
			window = 4096
		}
		window = f.int("sliding_window", window)
	case "qwen2", "qwen3":
		if f.bool("use_sliding_window", false) {
			if f.absent("sliding_window") {
				window = 4096
			}
			window = f.int("sliding_window", window)
		}
		from = f.int("max_window_layers", 28)
	}
	if f.err == nil && window < 0 {
		f.fail("sliding_window", "%d, want a positive number", window)
	}
	if f.err != nil || c.Layers < 0 {
		return
	}
	windows := make([]int, 0, min(c.Layers, maxLayers))
	any := false
	for i := range min(c.Layers, maxLayers) {
		w := 0
		if i >= from {
			w = window
		}
		if types != nil {
			switch types[i] {
			case "full_attention":
				w = 0
			case "sliding_attention":
				if w = window; w == 0 {
					f.fail("layer_types", "layer %d is sliding_attention, but no sliding window is in force", i)
					return
				}
			default:
				f.unsupported("layer_types", types[i], "full_attention, sliding_attention")
				return
			}
		}
		windows = append(windows, w)
		any = any || w > 0
	}
	if any {
		c.Windows = windows
	}
}

// Limits far above any model: they keep products of sizes far from overflow
// and a wrong file from asking for absurd memory.
const (
	maxLayers = 1 << 14
	maxWidth  = 1 << 24
)

// Validate checks that the values fit each other. Errors name the key of
// config.json that the value comes from.
func (c *Config) Validate() error {
	known := false
	for _, t := range architectures {
		known = known || t == c.ModelType
	}
	if !known {
		return fmt.Errorf(`"model_type": %q is %w (supported: llama, mistral, qwen2, qwen3)`, c.ModelType, ErrUnsupported)
	}
	for _, s := range []struct {
		key   string
		value int
		max   int
	}{
		{"hidden_size", c.Hidden, maxWidth},
		{"intermediate_size", c.Intermediate, maxWidth},
		{"num_hidden_layers", c.Layers, maxLayers},
		{"num_attention_heads", c.Heads, maxWidth},
		{"num_key_value_heads", c.KVHeads, maxWidth},
		{"head_dim", c.HeadDim, maxWidth},
		{"vocab_size", c.Vocab, maxWidth},
	} {
		if s.value < 1 || s.value > s.max {
			return fmt.Errorf("%q: %d, want 1 to %d", s.key, s.value, s.max)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf(`"num_key_value_heads": %d does not divide num_attention_heads %d`, c.KVHeads, c.Heads)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf(`"head_dim": %d, want an even number`, c.HeadDim)
	}
	if c.QueryWidth() > maxWidth {
		return fmt.Errorf(`"head_dim": %d times %d heads is over %d`, c.HeadDim, c.Heads, maxWidth)
	}
	if c.MaxPosition < 0 {
		return fmt.Errorf(`"max_position_embeddings": %d, want a positive number`, c.MaxPosition)
	}
	if !(c.NormEps > 0) || c.NormEps > 1 {
		return fmt.Errorf(`"rms_norm_eps": %g, want a small positive number`, c.NormEps)
	}
	if !(c.RopeTheta > 0) || math.IsInf(c.RopeTheta, 0) {
		return fmt.Errorf(`"rope_theta": %g, want a positive number`, c.RopeTheta)
	}
	if err := c.Rope.validate(); err != nil {
		return err
	}
	if c.Windows != nil && len(c.Windows) != c.Layers {
		return fmt.Errorf(`"layer_types": %d entries, want num_hidden_layers %d`, len(c.Windows), c.Layers)
	}
	for i, w := range c.Windows {
		if w < 0 {
			return fmt.Errorf(`"sliding_window": %d in layer %d, want a positive number`, w, i)
		}
	}
	if c.BOS < -1 || c.BOS >= c.Vocab {
		return fmt.Errorf(`"bos_token_id": %d, vocab_size is %d`, c.BOS, c.Vocab)
	}
	return nil
}

func (r RopeScaling) validate() error {
	if r.Type == "" {
		return nil
	}
	if r.Type != "linear" && r.Type != "llama3" {
		return fmt.Errorf(`"rope_type": %q is %w (supported: %s)`, r.Type, ErrUnsupported, supportedRope)
	}
	if !(r.Factor >= 1) || math.IsInf(r.Factor, 0) {
		return fmt.Errorf(`rope scaling "factor": %g, want at least 1`, r.Factor)
	}
	if r.Type == "linear" {
		return nil
	}
	if !(r.LowFreqFactor > 0) || !(r.HighFreqFactor > r.LowFreqFactor) || math.IsInf(r.HighFreqFactor, 0) {
		return fmt.Errorf(`rope scaling "low_freq_factor" %g, "high_freq_factor" %g: want 0 < low < high`, r.LowFreqFactor, r.HighFreqFactor)
	}
	if r.OriginalMaxPosition < 1 {
		return fmt.Errorf(`rope scaling "original_max_position_embeddings": %d, want a positive number`, r.OriginalMaxPosition)
	}
	return nil
}
