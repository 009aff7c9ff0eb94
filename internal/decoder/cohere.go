package decoder

// cohereArch is Command R: attention and MLP side by side on one LayerNorm
// without bias, neighbours rotated, logits scaled.
func cohereArch() *Architecture {
	return &Architecture{
		Classes: []string{"CohereForCausalLM"}, Type: "cohere", GGUF: cohereGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readCohere(f)
			c.QKNorm = f.bool("use_qk_norm", false)
			return func(b *builder) { b.cohereBlock(c.Rope, act) }
		},
	}
}

// cohere2Arch is Command R7B and Command A: three layers with a window for each
// with full attention, and rotations only in the former.
func cohere2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Cohere2ForCausalLM"}, Type: "cohere2", GGUF: cohere2GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readCohere(f)
			c.setWindows(f, c.layerTypes(f, slidingBut(f.size("sliding_window_pattern", 4))), slidingWindow(f, 4096))
			return func(b *builder) {
				rope := c.Rope
				if c.Window(b.p.Index) == 0 {
					rope = nil
				}
				b.cohereBlock(rope, act)
			}
		},
	}
}

func (c *Config) readCohere(f *fields) activation {
	c.readShape(f, 0, 0)
	c.NormEps = f.float("layer_norm_eps", 1e-5)
	c.Tied = f.bool("tie_word_embeddings", true)
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = c.readRope(f, fullAttention, 500000)
	if c.Rope != nil {
		c.Rope.Interleaved = true
	}
	c.head = headSpec{norm: normSpec{layer: true}, scale: f.float("logit_scale", 0.0625)}
	return readActivation(f, "hidden_act", "silu")
}

func (b *builder) cohereBlock(rope *Rope, act activation) {
	c, norm := b.c, normSpec{layer: true}
	h := b.norm(stream, "input_layernorm", norm)
	q, k, v := b.qkv(h)
	if c.QKNorm {
		b.headNorm(q, "self_attn.q_norm", norm, true)
		b.headNorm(k, "self_attn.k_norm", norm, true)
	}
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
	b.gatedMLP(stream, h, "mlp.", act)
}

func cohereGGUF() *GGUF {
	return &GGUF{
		Name: "command-r", LayerNorm: true, EmbeddingHead: true, Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Keys:  []GGUFKey{{"logit_scale", "logit_scale"}},
		Flags: []GGUFFlag{{Config: "use_qk_norm", Tensors: []string{"attn_q_norm.weight"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), ggufQKNorms, []GGUFName{ggufOutput}, ggufGated),
		Check: func(m *Model) error {
			// The engine tells models with norms by their layers.
			if err := m.require(map[string]any{"attention_bias": false, "use_qk_norm": m.Layers >= 64}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}

func cohere2GGUF() *GGUF {
	g := cohereGGUF()
	g.Name, g.Period, g.Flags = "cohere2", 4, nil
	g.Keys = append(g.Keys, GGUFKey{"attention.sliding_window", "sliding_window"})
	return g
}
