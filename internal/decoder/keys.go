package decoder

import (
	"math"
	"reflect"
)

// Keys of config.json that many architectures share.

// readShape sets the sizes. kvHeads and headDim are what transformers' config
// class takes where the key is absent; 0 means as many as heads, and hidden over
// heads.
func (c *Config) readShape(f *fields, kvHeads, headDim int) {
	c.Hidden = f.need("hidden_size")
	c.Intermediate = f.need("intermediate_size")
	c.Layers = f.need("num_hidden_layers")
	c.Heads = f.need("num_attention_heads")
	c.Vocab = f.need("vocab_size")
	if kvHeads == 0 || !f.absent("num_key_value_heads") {
		kvHeads = c.Heads
	}
	c.KVHeads = f.int("num_key_value_heads", kvHeads)
	f.alias("max_position_embeddings", "max_sequence_length") // the first Llamas
	c.MaxPosition = f.int("max_position_embeddings", 0)
	if c.HeadDim = f.int("head_dim", 0); f.null("head_dim") && f.err == nil {
		switch {
		case headDim > 0 && f.absent("head_dim"):
			c.HeadDim = headDim
		case c.Heads > 0 && c.Hidden%c.Heads == 0:
			c.HeadDim = c.Hidden / c.Heads
		default:
			f.fail("num_attention_heads", "%d does not divide hidden_size %d and there is no head_dim", c.Heads, c.Hidden)
		}
	}
	c.NormEps = f.float("rms_norm_eps", 1e-6)
	c.readTokens(f)
	c.Tied = f.bool("tie_word_embeddings", false)
}

// layerNorm is a LayerNorm with gain and bias.
var layerNorm = normSpec{layer: true, bias: true}

// readTokens sets dtype and special tokens.
func (c *Config) readTokens(f *fields) {
	c.DType = f.str("torch_dtype", "")
	c.DType = f.str("dtype", c.DType)
	c.BOS = f.int("bos_token_id", -1)
	c.EOS = f.ints("eos_token_id")
}

// activations are the names of activations in config.json.
var activations = map[string]activation{
	"silu": silu, "swish": silu, "gelu": gelu, "gelu_pytorch_tanh": geluTanh, "gelu_new": geluTanh,
	"gelu_fast": geluTanh, "relu": relu, "relu2": relu2, "quick_gelu": geluQuick, "sigmoid": sigmoid,
}

// readActivation reads a key that names an activation.
func readActivation(f *fields, key, missing string) activation {
	name := f.str(key, missing)
	a, ok := activations[name]
	if !ok && f.err == nil {
		f.unsupported(key, name, "silu, gelu, gelu_pytorch_tanh, relu, relu2, quick_gelu")
	}
	return a
}

// Kinds of attention layers in "layer_types".
const (
	fullAttention    = "full_attention"
	slidingAttention = "sliding_attention"
)

// layerTypes reads "layer_types", or makes them up where they are absent.
func (c *Config) layerTypes(f *fields, missing func(i int) string) []string {
	types := f.strs("layer_types")
	if f.err != nil || c.Layers < 0 || c.Layers > maxLayers {
		return nil // validate tells
	}
	if types == nil {
		for i := range c.Layers {
			types = append(types, missing(i))
		}
	}
	if len(types) != c.Layers {
		f.fail("layer_types", "%d entries, want num_hidden_layers %d", len(types), c.Layers)
		return nil
	}
	return types
}

// setWindows sets the window of each layer by its type.
func (c *Config) setWindows(f *fields, types []string, window int) {
	if f.err != nil {
		return
	}
	if window < 0 {
		f.fail("sliding_window", "%d, want a positive number", window)
		return
	}
	windows := make([]int, len(types))
	any := false
	for i, t := range types {
		switch {
		case t == fullAttention:
		case t != slidingAttention:
			f.unsupported("layer_types", t, "full_attention, sliding_attention")
			return
		case window == 0:
			f.fail("layer_types", "layer %d is sliding_attention, but no sliding window is in force", i)
			return
		default:
			windows[i], any = window, true
		}
	}
	if any {
		c.Windows = windows
	}
}

// everyLayer is a layer type for all layers where "layer_types" is absent:
// sliding from layer `from` on if there is a window.
func everyLayer(window, from int) func(i int) string {
	return func(i int) string {
		if window > 0 && i >= from {
			return slidingAttention
		}
		return fullAttention
	}
}

// slidingBut is a layer type where "layer_types" is absent: sliding but in each
// n-th layer.
func slidingBut(n int) func(i int) string {
	return func(i int) string {
		if (i+1)%n == 0 {
			return fullAttention
		}
		return slidingAttention
	}
}

// slidingWindow reads "sliding_window"; missing is what an absent key means.
func slidingWindow(f *fields, missing int) int {
	if !f.absent("sliding_window") {
		missing = 0
	}
	return f.int("sliding_window", missing)
}

// readRope reads the rotary embedding for one type of layers: rope_theta and
// rope_scaling up to transformers 4, one object rope_parameters since 5, which
// may hold one object for each type of layers.
func (c *Config) readRope(f *fields, layerType string, theta float64) *Rope {
	return c.readPartialRope(f, layerType, theta, 1)
}

// readPartialRope is readRope with what an absent partial_rotary_factor means.
func (c *Config) readPartialRope(f *fields, layerType string, theta, fraction float64) *Rope {
	r := &Rope{Theta: f.float("rope_theta", theta)}
	given := !f.null("rope_theta")
	fraction = f.float("partial_rotary_factor", fraction)
	old, new := f.object("rope_scaling").forLayers(f, layerType), f.object("rope_parameters").forLayers(f, layerType)
	if f.err != nil {
		return nil
	}
	for _, o := range []*fields{old, new} {
		if o == nil {
			continue
		}
		s := c.readScaling(f, o)
		fraction = o.float("partial_rotary_factor", fraction)
		// transformers 5 accepts the new object under the old key.
		if t := o.float("rope_theta", r.Theta); !o.null("rope_theta") {
			if given && t != r.Theta {
				o.fail("rope_theta", "%g contradicts rope_theta %g", t, r.Theta)
			}
			r.Theta, given = t, true
		}
		if o == new && old != nil && !reflect.DeepEqual(s, r.Scaling) {
			f.fail("rope_parameters", "contradicts rope_scaling")
		}
		r.Scaling = s
		f.take(o)
	}
	r.Dim = int(float64(c.HeadDim) * fraction)
	if f.err == nil && !(fraction > 0 && fraction <= 1) {
		f.fail("partial_rotary_factor", "%g, want more than 0 and at most 1", fraction)
	}
	return r
}

// layerRope is readRope for full attention where layers with a window have a
// rotation of their own, in whatever spelling: see readYarn.
func (c *Config) layerRope(f *fields, theta float64) *Rope {
	r := c.readRope(f, fullAttention, theta)
	if r != nil && r.Scaling.Type == "yarn" {
		r.Scaling.Truncate = true
	}
	return r
}

// forLayers returns the object for a type of layers, where there is one for
// each, and o itself otherwise.
func (o *fields) forLayers(f *fields, layerType string) *fields {
	if o == nil {
		return nil
	}
	nested := false
	for key, v := range o.values {
		if len(v) > 0 && v[0] == '{' {
			nested = true
			if key != fullAttention && key != slidingAttention {
				f.unsupported(o.path+key, shorten(v), "full_attention, sliding_attention")
			}
		}
	}
	if !nested {
		return o
	}
	inner := o.object(layerType)
	if inner == nil {
		f.fail(o.path+layerType, "missing")
	} else {
		inner.nested = true
	}
	f.take(o)
	return inner
}

const supportedRope = "default, linear, dynamic, llama3, yarn, longrope"

// readScaling reads how a rotation is scaled from its object s.
func (c *Config) readScaling(f, s *fields) RopeScaling {
	var r RopeScaling
	r.Type = s.str("rope_type", s.str("type", "default"))
	original := func() int {
		const key = "original_max_position_embeddings"
		n := s.int(key, c.MaxPosition)
		if !s.nested {
			n = f.int(key, n)
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
		c.readYarn(s, &r)
	case "longrope", "su":
		r.Type = "longrope"
		r.OriginalMaxPosition = original()
		r.Short, r.Long = s.floats("short_factor"), s.floats("long_factor")
		// The context may be stated as a multiple of the original one.
		length := float64(r.OriginalMaxPosition)
		factor := s.float("factor", float64(c.MaxPosition)/max(length, 1))
		if factor > 1 && length > 1 {
			r.Attention = math.Sqrt(1 + math.Log(factor)/math.Log(length))
		}
		r.Attention = s.float("attention_factor", r.Attention)
	default:
		s.unsupported("rope_type", r.Type, supportedRope)
	}
	return r
}

// readYarn reads the keys of YaRN. The factor of cosines and sines is that of
// arXiv 2309.00071, equation 22, or as DeepSeek has it the quotient of two.
func (c *Config) readYarn(s *fields, r *RopeScaling) {
	r.Factor = s.float("factor", float64(c.MaxPosition)/float64(max(r.OriginalMaxPosition, 1)))
	r.BetaFast, r.BetaSlow = s.float("beta_fast", 32), s.float("beta_slow", 1)
	if r.BetaFast == 0 {
		r.BetaFast = 32
	}
	if r.BetaSlow == 0 {
		r.BetaSlow = 1
	}
	// Where there is an object for each type of layers transformers looks for
	// "truncate" beside them, so what is in one has no effect.
	r.Truncate = s.nested || s.bool("truncate", true)
	scale := func(m float64) float64 {
		if r.Factor <= 1 {
			return 1
		}
		return 0.1*m*math.Log(r.Factor) + 1
	}
	r.Attention = scale(1)
	if m, all := s.float("mscale", 0), s.float("mscale_all_dim", 0); m != 0 && all != 0 {
		r.Attention = scale(m) / scale(all)
	}
	r.Attention = s.float("attention_factor", r.Attention)
}
