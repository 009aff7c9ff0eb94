package decoder

import "fmt"

// Kinds of layers in "layer_types" beside those of attention.
const (
	linearAttention = "linear_attention"
	convolution     = "conv"
)

// lfm2Arch is LFM2 (Liquid AI, 2025): gated short convolutions and attention.
func lfm2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Lfm2ForCausalLM"}, Type: "lfm2",
		read: func(f *fields, c *Config) func(*builder) {
			l := c.readLFM2(f)
			return func(b *builder) {
				b.lfm2Mixer(l)
				b.lfm2MLP(b.norm(stream, "ffn_norm", normSpec{}))
			}
		},
	}
}

// lfm2 is what the mixers of LFM2 are.
type lfm2 struct {
	types []string
	size  int // of the convolution
	bias  bool
}

func (c *Config) readLFM2(f *fields) lfm2 {
	if !f.null("block_ff_dim") {
		delete(f.values, "intermediate_size")
		f.alias("intermediate_size", "block_ff_dim")
	}
	f.otherwise("tie_word_embeddings", f.bool("tie_embedding", true))
	c.readShape(f, 8, 0)
	c.NormEps = f.float("norm_eps", 1e-5)
	c.QKNorm = true
	c.Rope = c.readRope(f, fullAttention, 10000)
	l := lfm2{size: f.size("conv_L_cache", 3), bias: f.bool("conv_bias", false)}
	full := f.ints("full_attn_idxs")
	l.types = c.layerTypes(f, func(i int) string {
		if full == nil {
			return fullAttention
		}
		for _, j := range full {
			if i == j {
				return fullAttention
			}
		}
		return convolution
	})
	checkTypes(f, "layer_types", l.types, fullAttention, convolution)
	if f.bool("block_auto_adjust_ff_dim", true) {
		w := 2 * c.Intermediate / 3
		if !f.null("block_ffn_dim_multiplier") || f.absent("block_ffn_dim_multiplier") {
			w = int(f.float("block_ffn_dim_multiplier", 1) * float64(w))
			n := f.size("block_multiple_of", 256)
			w = (w + n - 1) / n * n
		}
		c.Intermediate = w
	}
	c.names.finalNorm = "model.embedding_norm.weight"
	return l
}

// checkTypes refuses kinds of layers that are not in a list.
func checkTypes(f *fields, key string, types []string, known ...string) {
	for _, t := range types {
		found := false
		for _, k := range known {
			found = found || t == k
		}
		if !found {
			f.unsupported(key, t, fmt.Sprintf("%v", known))
		}
	}
}

func (b *builder) lfm2MLP(h reg) {
	gate := b.linear(h, "feed_forward.w1", b.c.Intermediate, false)
	up := b.linear(h, "feed_forward.w3", b.c.Intermediate, false)
	b.addLinear(stream, b.gated(silu, gate, up), "feed_forward.w2", false)
}

func (b *builder) lfm2Mixer(l lfm2) {
	c := b.c
	h := b.norm(stream, "operator_norm", normSpec{})
	if l.types[b.Index] == convolution {
		p := b.linear(h, "conv.in_proj", 3*c.Hidden, l.bias) // B, C, x
		u := b.reg(c.Hidden)
		b.multiply(u, p, 0, p, 2*c.Hidden)
		y := b.conv(u, 0, c.Hidden, l.size, "conv.conv", l.bias, identity)
		b.multiply(y, y, 0, p, c.Hidden)
		b.addLinear(stream, y, "conv.out_proj", l.bias)
		return
	}
	q, k, v := b.qkv(h)
	b.headNorm(q, "self_attn.q_layernorm", normSpec{}, false)
	b.headNorm(k, "self_attn.k_layernorm", normSpec{}, false)
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.out_proj", false)
}
