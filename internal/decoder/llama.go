package decoder

// llamaArch is Llama and what has its blocks under the same name.
func llamaArch() *Architecture {
	return &Architecture{
		Classes: []string{"LlamaForCausalLM"}, Type: "llama", GGUF: llamaGGUF("llama", true),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.setWindows(f, c.layerTypes(f, everyLayer(0, 0)), 0)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// mistralArch is Mistral 7B and its successors of that name.
func mistralArch() *Architecture {
	return &Architecture{
		Classes: []string{"MistralForCausalLM"}, Type: "mistral", GGUF: llamaGGUF("llama", true),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := slidingWindow(f, 4096)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// plainBlock is a block of Llama, after the flags of the configuration.
func plainBlock(act activation) func(*builder) {
	return func(b *builder) {
		h := b.norm(stream, "input_layernorm", normSpec{})
		b.plainAttention(h)
		h = b.norm(stream, "post_attention_layernorm", normSpec{})
		b.gatedMLP(stream, h, "mlp.", act)
	}
}

// plainAttention adds attention and its output: separate q, k, v, with norms of
// q and k where the configuration has them, rotation, and a window.
func (b *builder) plainAttention(h reg) {
	c := b.c
	q := b.linear(h, "self_attn.q_proj", c.QueryWidth(), c.QKVBias)
	k := b.linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias)
	v := b.linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias)
	qh, kh, vh := b.whole(q, c.HeadDim), b.whole(k, c.HeadDim), b.whole(v, c.HeadDim)
	if c.QKNorm {
		b.headNorm(qh, "self_attn.q_norm", normSpec{}, false)
		b.headNorm(kh, "self_attn.k_norm", normSpec{}, false)
	} else {
		b.absent("self_attn.q_norm.weight", "self_attn.k_norm.weight")
	}
	b.rotate(qh, c.Rope)
	b.rotate(kh, c.Rope)
	a := b.attend(attention{q: qh, k: kh, v: vh, window: c.Window(b.p.Index)})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
}

// gatedMLP adds a gated MLP of Intermediate, its output added to dst.
func (b *builder) gatedMLP(dst, h reg, path string, act activation) {
	c := b.c
	gate := b.linear(h, path+"gate_proj", c.Intermediate, c.MLPBias)
	up := b.linear(h, path+"up_proj", c.Intermediate, c.MLPBias)
	b.addLinear(dst, b.gated(act, gate, up), path+"down_proj", c.MLPBias)
}
