package decoder

// llamaArch is Llama and what has its blocks under the same name.
func llamaArch() *Architecture {
	return &Architecture{
		Classes: []string{"LlamaForCausalLM"}, Type: "llama", GGUF: llamaGGUF("llama", true, attentionBias, mlpBias),
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
func (b *builder) plainAttention(h reg) { b.rotatedAttention(h, b.c.Rope) }

// rotatedAttention is plainAttention with a rotation, or without one if it is nil.
func (b *builder) rotatedAttention(h reg, rope *Rope) {
	c := b.c
	q, k, v := b.qkv(h)
	if c.QKNorm {
		b.headNorm(q, "self_attn.q_norm", normSpec{}, false)
		b.headNorm(k, "self_attn.k_norm", normSpec{}, false)
	} else {
		b.absent("self_attn.q_norm.weight", "self_attn.k_norm.weight")
	}
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
}

// qkv adds the linears of queries, keys and values, each its own.
func (b *builder) qkv(h reg) (q, k, v heads) {
	c := b.c
	qr := b.linear(h, "self_attn.q_proj", c.QueryWidth(), c.QKVBias)
	kr := b.linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias)
	vr := b.linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias)
	return b.whole(qr, c.HeadDim), b.whole(kr, c.HeadDim), b.whole(vr, c.HeadDim)
}

// gatedMLP adds a gated MLP of Intermediate, its output added to dst.
func (b *builder) gatedMLP(dst, h reg, path string, act activation) {
	c := b.c
	gate := b.linear(h, path+"gate_proj", c.Intermediate, c.MLPBias)
	up := b.linear(h, path+"up_proj", c.Intermediate, c.MLPBias)
	b.addLinear(dst, b.gated(act, gate, up), path+"down_proj", c.MLPBias)
}

// mlpOutput adds a gated MLP of Intermediate and returns its output.
func (b *builder) mlpOutput(h reg, path string, act activation) reg {
	c := b.c
	gate := b.linear(h, path+"gate_proj", c.Intermediate, c.MLPBias)
	up := b.linear(h, path+"up_proj", c.Intermediate, c.MLPBias)
	return b.linear(b.gated(act, gate, up), path+"down_proj", c.Hidden, c.MLPBias)
}
