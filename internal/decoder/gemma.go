package decoder

import "math"

// gemmaArch is Gemma (arXiv 2403.08295): Llama's block with gains of 1+w,
// GeGLU and embeddings times the square root of their width.
func gemmaArch() *Architecture {
	return &Architecture{
		Classes: []string{"GemmaForCausalLM"}, Type: "gemma",
		read: func(f *fields, c *Config) func(*builder) {
			c.readGemma(f, 0)
			c.Rope = c.readRope(f, fullAttention, 10000)
			// transformers takes the exact GELU of old files for its approximation,
			// which the models were trained with.
			act := readActivation(f, "hidden_act", "gelu_pytorch_tanh")
			if act == gelu {
				act = geluTanh
			}
			return func(b *builder) {
				gain := normSpec{plusOne: true}
				h := b.norm(stream, "input_layernorm", gain)
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", gain)
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// gemma2Arch is Gemma 2 (arXiv 2408.00118): norms before and after attention and
// MLP, soft caps of scores and logits, every second layer with a window.
func gemma2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Gemma2ForCausalLM"}, Type: "gemma2",
		read: func(f *fields, c *Config) func(*builder) {
			c.readGemma(f, 4)
			c.head.cap = f.orNull("final_logit_softcapping", 30)
			c.setWindows(f, c.layerTypes(f, slidingBut(2)), slidingWindow(f, 4096))
			c.Rope = c.readRope(f, fullAttention, 10000)
			scale := 1 / math.Sqrt(f.float("query_pre_attn_scalar", 256))
			cap := f.orNull("attn_logit_softcapping", 50)
			act := readActivation(f, "hidden_activation", "gelu_pytorch_tanh")
			return func(b *builder) { b.gemma2Block(c.Rope, scale, cap, act) }
		},
	}
}

// readGemma reads what all generations of Gemma share.
func (c *Config) readGemma(f *fields, kvHeads int) {
	c.readShape(f, kvHeads, 256)
	c.Tied = f.bool("tie_word_embeddings", true)
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.embed.scale = math.Sqrt(float64(c.Hidden))
	c.head.norm.plusOne = true
	if f.bool("use_bidirectional_attention", false) {
		f.unsupported("use_bidirectional_attention", "true", "false")
	}
}

// gemma2Block is the block of Gemma 2 and 3.
func (b *builder) gemma2Block(rope *Rope, scale, cap float64, act activation) {
	c, gain := b.c, normSpec{plusOne: true}
	h := b.norm(stream, "input_layernorm", gain)
	q, k, v := b.qkv(h)
	if c.QKNorm {
		b.headNorm(q, "self_attn.q_norm", gain, false)
		b.headNorm(k, "self_attn.k_norm", gain, false)
	}
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.Index), scale: scale, cap: cap})
	o := b.linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.normSelf(o, "post_attention_layernorm", gain)
	b.add(stream, o, 1)

	h = b.norm(stream, "pre_feedforward_layernorm", gain)
	y := b.mlpOutput(h, "mlp.", act)
	b.normSelf(y, "post_feedforward_layernorm", gain)
	b.add(stream, y, 1)
}
