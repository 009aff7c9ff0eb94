package decoder

// phi3Arch is Phi-3 and Phi-4 (arXiv 2404.14219): Llama's block with q, k and v in
// one matrix, and gate and up in one, a part of each head rotated.
func phi3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Phi3ForCausalLM"}, Type: "phi3", GGUF: phi3GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			f.missing("original_max_position_embeddings", 4096)
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.Rope = c.readRope(f, fullAttention, 10000)
			if s := c.Rope.scaling(); f.err == nil && s != "" && s != "longrope" {
				f.unsupported("rope_scaling", s, "default, longrope")
			}
			w := f.int("sliding_window", 0)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.fusedQKV(h, "self_attn.qkv_proj", false)
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.p.Index)})
				b.addLinear(stream, a, "self_attn.o_proj", false)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.addLinear(stream, b.fusedGate(h, act), "mlp.down_proj", false)
			}
		},
	}
}

// scaling is the type of a rotation's scaling.
func (r *Rope) scaling() string {
	if r == nil {
		return ""
	}
	return r.Scaling.Type
}

// fusedQKV adds one linear for queries, keys and values, one after the other.
func (b *builder) fusedQKV(h reg, path string, bias bool) (q, k, v heads) {
	c := b.c
	r := b.linear(h, path, c.QueryWidth()+2*c.KVWidth(), bias)
	q = heads{reg: r, n: c.Heads, dim: c.HeadDim}
	k = heads{reg: r, n: c.KVHeads, dim: c.HeadDim, base: c.QueryWidth()}
	v = heads{reg: r, n: c.KVHeads, dim: c.HeadDim, base: c.QueryWidth() + c.KVWidth()}
	return q, k, v
}

// fusedGate adds one linear for the gate and the other factor, and the product.
func (b *builder) fusedGate(h reg, act activation) reg {
	return b.gatedHalves(act, b.linear(h, "mlp.gate_up_proj", 2*b.c.Intermediate, false))
}

// phi3GGUF: q, k and v stay in one matrix, and gate and up.
func phi3GGUF() *GGUF {
	return &GGUF{
		Name: "phi3", LongRope: true,
		Block: []GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "self_attn.qkv_proj", GGUF: "attn_qkv"}, ggufOutput,
			{HF: "post_attention_layernorm", GGUF: "ffn_norm"}, {HF: "mlp.gate_up_proj", GGUF: "ffn_up"},
			{HF: "mlp.down_proj", GGUF: "ffn_down"},
		},
		Check: (*Model).requireHidden,
	}
}
