package decoder

// glmArch is GLM-4 as of 2024: Llama's block with gate and up in one matrix, half
// of each head rotated, in pairs of neighbours.
func glmArch() *Architecture {
	return &Architecture{
		Classes: []string{"GlmForCausalLM"}, Type: "glm", GGUF: glmGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readGLM(f)
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.addLinear(stream, b.fusedGate(h, act), "mlp.down_proj", false)
			}
		},
	}
}

// glm4Arch is GLM-4-0414: that with norms also after attention and MLP.
func glm4Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Glm4ForCausalLM"}, Type: "glm4", GGUF: glm4GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			act := c.readGLM(f)
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.qkv(h)
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				o := b.linear(b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", c.Hidden, c.OBias)
				b.normSelf(o, "post_self_attn_layernorm", normSpec{})
				b.add(stream, o, 1)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				y := b.linear(b.fusedGate(h, act), "mlp.down_proj", c.Hidden, false)
				b.normSelf(y, "post_mlp_layernorm", normSpec{})
				b.add(stream, y, 1)
			}
		},
	}
}

func (c *Config) readGLM(f *fields) activation {
	c.readShape(f, 2, 128)
	c.NormEps = f.float("rms_norm_eps", 1.5625e-7)
	c.QKVBias = f.bool("attention_bias", true)
	c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.5)
	if c.Rope != nil {
		c.Rope.Interleaved = true
	}
	return readActivation(f, "hidden_act", "silu")
}

// glm4GGUF: gate and up stay in one matrix.
func glm4GGUF() *GGUF {
	return &GGUF{
		Name: "glm4", Flags: []GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufNorm("post_self_attn_layernorm", "post_attention_norm"), ggufNorm("post_attention_layernorm", "ffn_norm"),
			[]GGUFName{{HF: "mlp.gate_up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}},
			ggufNorm("post_mlp_layernorm", "post_ffw_norm")),
	}
}

// glmGGUF is glm4GGUF without the norms after attention and MLP.
func glmGGUF() *GGUF {
	return &GGUF{
		Name: "chatglm", Flags: []GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"),
			[]GGUFName{{HF: "mlp.gate_up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}}),
		Check: (*Model).requireHidden,
	}
}
