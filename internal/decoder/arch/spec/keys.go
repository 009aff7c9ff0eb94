package spec

import (
	"math"
	"reflect"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Keys of config.json that many architectures share.

// ReadShape sets the sizes. kvHeads and headDim are what transformers' config
// class takes where the key is absent; 0 means as many as heads, and hidden over
// heads.
func ReadShape(c *decoder.Config, f *Fields, kvHeads, headDim int) {
	c.Hidden = f.need("hidden_size")
	c.Intermediate = f.need("intermediate_size")
	c.Layers = f.need("num_hidden_layers")
	c.Heads = f.need("num_attention_heads")
	c.Vocab = f.need("vocab_size")
	if kvHeads == 0 || !f.Absent("num_key_value_heads") {
		kvHeads = c.Heads
	}
	c.KVHeads = f.Int("num_key_value_heads", kvHeads)
	f.Alias("max_position_embeddings", "max_sequence_length") // the first Llamas
	c.MaxPosition = f.Int("max_position_embeddings", 0)
	if c.HeadDim = f.Int("head_dim", 0); f.Null("head_dim") && f.Err == nil {
		switch {
		case headDim > 0 && f.Absent("head_dim"):
			c.HeadDim = headDim
		case c.Heads > 0 && c.Hidden%c.Heads == 0:
			c.HeadDim = c.Hidden / c.Heads
		default:
			f.Fail("num_attention_heads", "%d does not divide hidden_size %d and there is no head_dim", c.Heads, c.Hidden)
		}
	}
	c.NormEps = f.Float("rms_norm_eps", 1e-6)
	readTokens(c, f)
	c.Tied = f.Bool("tie_word_embeddings", false)
}

// LayerNorm is a LayerNorm with gain and bias.
var LayerNorm = program.Norm{Layer: true, Bias: true}

// readTokens sets dtype and special tokens.
func readTokens(c *decoder.Config, f *Fields) {
	c.DType = f.Str("torch_dtype", "")
	c.DType = f.Str("dtype", c.DType)
	c.BOS = f.Int("bos_token_id", -1)
	c.EOS = f.Ints("eos_token_id")
}

// activations are the names of activations in config.json.
var activations = map[string]program.Activation{
	"silu": program.SiLU, "swish": program.SiLU, "gelu": program.GELU, "gelu_pytorch_tanh": program.GELUTanh, "gelu_new": program.GELUTanh,
	"gelu_fast": program.GELUTanh, "relu": program.ReLU, "relu2": program.ReLU2, "quick_gelu": program.GELUQuick, "sigmoid": program.Sigmoid,
}

// ReadActivation reads a key that names an activation.
func ReadActivation(f *Fields, key, missing string) program.Activation {
	name := f.Str(key, missing)
	a, ok := activations[name]
	if !ok && f.Err == nil {
		f.Unsupported(key, name, "silu, gelu, gelu_pytorch_tanh, relu, relu2, quick_gelu")
	}
	return a
}

// Kinds of attention layers in "layer_types".
const (
	FullAttention    = "full_attention"
	SlidingAttention = "sliding_attention"
)

// LayerTypes reads "layer_types", or makes them up where they are absent.
func LayerTypes(c *decoder.Config, f *Fields, missing func(i int) string) []string {
	types := f.Strs("layer_types")
	if f.Err != nil || c.Layers < 0 || c.Layers > decoder.MaxLayers {
		return nil // validate tells
	}
	if types == nil {
		for i := range c.Layers {
			types = append(types, missing(i))
		}
	}
	if len(types) != c.Layers {
		f.Fail("layer_types", "%d entries, want num_hidden_layers %d", len(types), c.Layers)
		return nil
	}
	return types
}

// SetWindows sets the window of each layer by its type.
func SetWindows(c *decoder.Config, f *Fields, types []string, window int) {
	if f.Err != nil {
		return
	}
	if window < 0 {
		f.Fail("sliding_window", "%d, want a positive number", window)
		return
	}
	windows := make([]int, len(types))
	any := false
	for i, t := range types {
		switch {
		case t == FullAttention:
		case t != SlidingAttention:
			f.Unsupported("layer_types", t, "full_attention, sliding_attention")
			return
		case window == 0:
			f.Fail("layer_types", "layer %d is sliding_attention, but no sliding window is in force", i)
			return
		default:
			windows[i], any = window, true
		}
	}
	if any {
		c.Windows = windows
	}
}

// EveryLayer is a layer type for all layers where "layer_types" is absent:
// sliding from layer `from` on if there is a window.
func EveryLayer(window, from int) func(i int) string {
	return func(i int) string {
		if window > 0 && i >= from {
			return SlidingAttention
		}
		return FullAttention
	}
}

// SlidingBut is a layer type where "layer_types" is absent: sliding but in each
// n-th layer.
func SlidingBut(n int) func(i int) string {
	return func(i int) string {
		if (i+1)%n == 0 {
			return FullAttention
		}
		return SlidingAttention
	}
}

// SlidingWindow reads "sliding_window"; missing is what an absent key means.
func SlidingWindow(f *Fields, missing int) int {
	if !f.Absent("sliding_window") {
		missing = 0
	}
	return f.Int("sliding_window", missing)
}

// ReadRope reads the rotary embedding for one type of layers: rope_theta and
// rope_scaling up to transformers 4, one object rope_parameters since 5, which
// may hold one object for each type of layers.
func ReadRope(c *decoder.Config, f *Fields, layerType string, theta float64) *program.Rope {
	return ReadPartialRope(c, f, layerType, theta, 1)
}

// ReadPartialRope is ReadRope with what an absent partial_rotary_factor means.
func ReadPartialRope(c *decoder.Config, f *Fields, layerType string, theta, fraction float64) *program.Rope {
	r := &program.Rope{Theta: f.Float("rope_theta", theta)}
	given := !f.Null("rope_theta")
	fraction = f.Float("partial_rotary_factor", fraction)
	old, new := f.Object("rope_scaling").forLayers(f, layerType), f.Object("rope_parameters").forLayers(f, layerType)
	if f.Err != nil {
		return nil
	}
	for _, o := range []*Fields{old, new} {
		if o == nil {
			continue
		}
		s := readScaling(c, f, o)
		fraction = o.Float("partial_rotary_factor", fraction)
		// transformers 5 accepts the new object under the old key.
		if t := o.Float("rope_theta", r.Theta); !o.Null("rope_theta") {
			if given && t != r.Theta {
				o.Fail("rope_theta", "%g contradicts rope_theta %g", t, r.Theta)
			}
			r.Theta, given = t, true
		}
		if o == new && old != nil && !reflect.DeepEqual(s, r.Scaling) {
			f.Fail("rope_parameters", "contradicts rope_scaling")
		}
		r.Scaling = s
		f.Take(o)
	}
	r.Dim = int(float64(c.HeadDim) * fraction)
	if f.Err == nil && !(fraction > 0 && fraction <= 1) {
		f.Fail("partial_rotary_factor", "%g, want more than 0 and at most 1", fraction)
	}
	return r
}

// LayerRope is ReadRope for full attention where layers with a window have a
// rotation of their own, in whatever spelling: see readYarn.
func LayerRope(c *decoder.Config, f *Fields, theta float64) *program.Rope {
	r := ReadRope(c, f, FullAttention, theta)
	if r != nil && r.Scaling.Type == "yarn" {
		r.Scaling.Truncate = true
	}
	return r
}

// forLayers returns the object for a type of layers, where there is one for
// each, and o itself otherwise.
func (o *Fields) forLayers(f *Fields, layerType string) *Fields {
	if o == nil {
		return nil
	}
	nested := false
	for key, v := range o.Values {
		if len(v) > 0 && v[0] == '{' {
			nested = true
			if key != FullAttention && key != SlidingAttention {
				f.Unsupported(o.path+key, Shorten(v), "full_attention, sliding_attention")
			}
		}
	}
	if !nested {
		return o
	}
	inner := o.Object(layerType)
	if inner == nil {
		f.Fail(o.path+layerType, "missing")
	} else {
		inner.nested = true
	}
	f.Take(o)
	return inner
}

const supportedRope = "default, linear, dynamic, llama3, yarn, longrope"

// readScaling reads how a rotation is scaled from its object s.
func readScaling(c *decoder.Config, f, s *Fields) program.RopeScaling {
	var r program.RopeScaling
	r.Type = s.Str("rope_type", s.Str("type", "default"))
	original := func() int {
		const key = "original_max_position_embeddings"
		n := s.Int(key, c.MaxPosition)
		if !s.nested {
			n = f.Int(key, n)
		}
		return n
	}
	switch r.Type {
	case "default":
		r.Type = ""
	case "linear":
		r.Factor = s.needFloat("factor")
	case "dynamic":
		r.Factor = s.needFloat("factor")
		r.OriginalMaxPosition = c.MaxPosition
	case "llama3":
		r.Factor = s.needFloat("factor")
		r.LowFreqFactor = s.needFloat("low_freq_factor")
		r.HighFreqFactor = s.needFloat("high_freq_factor")
		r.OriginalMaxPosition = s.need("original_max_position_embeddings")
	case "yarn":
		r.OriginalMaxPosition = original()
		readYarn(c, s, &r)
	case "longrope", "su":
		r.Type = "longrope"
		r.OriginalMaxPosition = original()
		r.Short, r.Long = s.floats("short_factor"), s.floats("long_factor")
		// The context may be stated as a multiple of the original one.
		length := float64(r.OriginalMaxPosition)
		factor := s.Float("factor", float64(c.MaxPosition)/max(length, 1))
		if factor > 1 && length > 1 {
			r.Attention = math.Sqrt(1 + math.Log(factor)/math.Log(length))
		}
		r.Attention = s.Float("attention_factor", r.Attention)
	default:
		s.Unsupported("rope_type", r.Type, supportedRope)
	}
	return r
}

// readYarn reads the keys of YaRN. The factor of cosines and sines is that of
// arXiv 2309.00071, equation 22, or as DeepSeek has it the quotient of two.
func readYarn(c *decoder.Config, s *Fields, r *program.RopeScaling) {
	r.Factor = s.Float("factor", float64(c.MaxPosition)/float64(max(r.OriginalMaxPosition, 1)))
	r.BetaFast, r.BetaSlow = s.Float("beta_fast", 32), s.Float("beta_slow", 1)
	if r.BetaFast == 0 {
		r.BetaFast = 32
	}
	if r.BetaSlow == 0 {
		r.BetaSlow = 1
	}
	// Where there is an object for each type of layers transformers looks for
	// "truncate" beside them, so what is in one has no effect.
	r.Truncate = s.nested || s.Bool("truncate", true)
	scale := func(m float64) float64 {
		if r.Factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(r.Factor) + 1
	}
	r.Attention = scale(1)
	if m, all := s.Float("mscale", 0), s.Float("mscale_all_dim", 0); m != 0 && all != 0 {
		r.Attention = scale(m) / scale(all)
	}
	r.Attention = s.Float("attention_factor", r.Attention)
}

// TopExperts reads how many experts a token goes to.
func TopExperts(c *decoder.Config, f *Fields, key string, missing int) int {
	top := f.Int(key, missing)
	if f.Err == nil && (top < 1 || top > c.Experts) {
		f.Fail(key, "%d, want 1 to the number of experts, %d", top, c.Experts)
	}
	return top
}

// ReadBody reads the sizes of a model without attention.
func ReadBody(c *decoder.Config, f *Fields) {
	c.NoAttention = true
	c.Hidden = f.need("hidden_size")
	c.Intermediate = f.need("intermediate_size")
	c.Layers = f.need("num_hidden_layers")
	c.Vocab = f.need("vocab_size")
	readTokens(c, f)
	c.Tied = f.Bool("tie_word_embeddings", false)
}

// Within is a token's id, or -1 if it is not in the vocabulary: configurations
// with the default of their class and a smaller vocabulary exist.
func Within(id, vocab int) int {
	if id >= vocab {
		return -1
	}
	return id
}
