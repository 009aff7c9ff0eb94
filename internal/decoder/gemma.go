package decoder

import "math"

// gemmaArch is Gemma (arXiv 2403.08295): Llama's block with gains of 1+w,
// GeGLU and embeddings times the square root of their width.
func gemmaArch() *Architecture {
	return &Architecture{
		Classes: []string{"GemmaForCausalLM"}, Type: "gemma", GGUF: gemmaGGUF(),
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
		Classes: []string{"Gemma2ForCausalLM"}, Type: "gemma2", GGUF: gemma2GGUF(),
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
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index), scale: scale, cap: cap})
	o := b.linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.normSelf(o, "post_attention_layernorm", gain)
	b.add(stream, o, 1)

	h = b.norm(stream, "pre_feedforward_layernorm", gain)
	y := b.mlpOutput(h, "mlp.", act)
	b.normSelf(y, "post_feedforward_layernorm", gain)
	b.add(stream, y, 1)
}

// gemmaGGUF: the engine has the approximated GELU only, as the model.
func gemmaGGUF() *GGUF {
	return &GGUF{
		Name: "gemma", EmbeddingHead: true,
		Activation: GGUFActivation{Key: "hidden_act", Values: []string{"gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast"}},
		Block: joined(ggufGain("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufGain("post_attention_layernorm", "ffn_norm"), ggufGated),
		Check: func(m *Model) error { return m.require(map[string]any{"attention_bias": false}) },
	}
}

// gemma2GGUF: the engine takes the width of a head for the scale of attention but in the model of 46 layers.
func gemma2GGUF() *GGUF {
	return &GGUF{
		Name: "gemma2", EmbeddingHead: true, Period: 2, HeadWidth: "query_pre_attn_scalar", Largest: 46,
		Activation: geluActivation("hidden_activation"),
		Keys: []GGUFKey{
			{"attention.sliding_window", "sliding_window"}, {"attn_logit_softcapping", "attn_logit_softcapping"},
			{"final_logit_softcapping", "final_logit_softcapping"},
		},
		Block: gemma2Names(),
		Check: func(m *Model) error {
			if m.number("attn_logit_softcapping") == 0 || m.number("final_logit_softcapping") == 0 {
				return refuse("attn_logit_softcapping", "null", "gemma2")
			}
			return m.requireGemma()
		},
	}
}

func gemma2Names() []GGUFName {
	return joined(ggufGain("input_layernorm", "attn_norm"), ggufQKV(false),
		ggufGain("self_attn.q_norm", "attn_q_norm"), ggufGain("self_attn.k_norm", "attn_k_norm"), []GGUFName{ggufOutput},
		ggufGain("post_attention_layernorm", "post_attention_norm"), ggufGain("pre_feedforward_layernorm", "ffn_norm"),
		ggufGated, ggufGain("post_feedforward_layernorm", "post_ffw_norm"))
}

// requireGemma refuses biases, and scales of attention that the engine does not take.
func (m *Model) requireGemma() error {
	if err := m.requireScale(); err != nil {
		return err
	}
	return m.require(map[string]any{"attention_bias": false})
}
