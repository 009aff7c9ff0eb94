package decoder

import "math"

// graniteArch is Granite 3: Llama's block with factors of the embeddings, the
// scores, what a branch adds to the residual stream, and the logits.
func graniteArch() *Architecture {
	return &Architecture{
		Classes: []string{"GraniteForCausalLM"}, Type: "granite", GGUF: graniteGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.setWindows(f, c.layerTypes(f, everyLayer(0, 0)), 0)
			m := c.readMultipliers(f)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.graniteAttention(h, c.Rope, m)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.add(stream, b.mlpOutput(h, "mlp.", act), m.residual)
			}
		},
	}
}

// multipliers are the factors inside a block of the Granite family.
type multipliers struct{ attention, residual float64 }

// readMultipliers reads the factors of the Granite family.
func (c *Config) readMultipliers(f *fields) multipliers {
	factor := func(key string) float64 {
		v := f.float(key, 1)
		if f.err == nil && (v == 0 || math.IsNaN(v) || math.IsInf(v, 0)) {
			f.fail(key, "%g, want a number that is not 0", v)
		}
		return v
	}
	c.embed.scale = factor("embedding_multiplier")
	c.head.scale = 1 / factor("logits_scaling")
	return multipliers{factor("attention_multiplier"), factor("residual_multiplier")}
}

// graniteAttention adds attention to the residual stream; without rope there is
// no rotation.
func (b *builder) graniteAttention(h reg, rope *Rope, m multipliers) {
	c := b.c
	q, k, v := b.qkv(h)
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index), scale: m.attention})
	b.add(stream, b.linear(a, "self_attn.o_proj", c.Hidden, c.OBias), m.residual)
}

func graniteGGUF() *GGUF {
	g := llamaGGUF("granite", true, attentionBias, mlpBias)
	g.Keys = graniteKeys()
	return g
}

func graniteKeys() []GGUFKey {
	return []GGUFKey{
		{"embedding_scale", "embedding_multiplier"}, {"attention.scale", "attention_multiplier"},
		{"residual_scale", "residual_multiplier"}, {"logit_scale", "logits_scaling"},
	}
}
