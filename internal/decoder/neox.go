package decoder

// neoxArch is GPT-NeoX (Black et al., arXiv 2204.06745) and Pythia: q, k and v of
// each head side by side, rotation of a part of each head, attention and MLP in
// parallel or one after the other.
func neoxArch() *Architecture {
	return &Architecture{
		Classes: []string{"GPTNeoXForCausalLM"}, Type: "gpt_neox", GGUF: neoxGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			f.alias("rope_theta", "rotary_emb_base")
			f.alias("partial_rotary_factor", "rotary_pct")
			c.readShape(f, 0, 0)
			c.NormEps = f.float("layer_norm_eps", 1e-5)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.25)
			bias := f.bool("attention_bias", true)
			c.QKVBias, c.OBias, c.MLPBias = bias, bias, true
			parallel := f.bool("use_parallel_residual", true)
			act := readActivation(f, "hidden_act", "gelu")
			c.names = names{
				embedding: "gpt_neox.embed_in.weight", finalNorm: "gpt_neox.final_layer_norm.weight",
				head: "embed_out.weight", block: "gpt_neox.layers.%d.",
			}
			c.head.norm = layerNorm
			return func(b *builder) { b.neoxBlock(parallel, act) }
		},
	}
}

func (b *builder) neoxBlock(parallel bool, act activation) {
	c := b.c
	h := b.norm(stream, "input_layernorm", layerNorm)
	var m reg
	if parallel {
		m = b.norm(stream, "post_attention_layernorm", layerNorm)
	}
	q, k, v := b.headwiseQKV(h, "attention.query_key_value", c.QKVBias)
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "attention.dense", c.OBias)
	if !parallel {
		m = b.norm(stream, "post_attention_layernorm", layerNorm)
	}
	b.twoLayerMLP(stream, m, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.Intermediate, act, c.MLPBias)
}

// headwiseQKV adds a linear whose output has q, k and v of the first head, then
// of the second, and so on.
func (b *builder) headwiseQKV(h reg, path string, bias bool) (q, k, v heads) {
	c := b.c
	r := b.linear(h, path, 3*c.QueryWidth(), bias)
	part := func(i int) heads {
		return heads{reg: r, n: c.Heads, dim: c.HeadDim, base: i * c.HeadDim, step: 3 * c.HeadDim}
	}
	return part(0), part(1), part(2)
}

// neoxGGUF: the engine has the approximated GELU for the exact one.
func neoxGGUF() *GGUF {
	return &GGUF{
		Name: "gptneox", LayerNorm: true, OwnHead: true, Activation: exactGELU("hidden_act"),
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_eps", "num_key_value_heads": "", "head_dim": "", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct",
		},
		Keys: []GGUFKey{{"use_parallel_residual", "use_parallel_residual"}},
		Block: []GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "attention.query_key_value", GGUF: "attn_qkv", Rows: splitHeads},
			{HF: "attention.dense", GGUF: "attn_output"}, {HF: "post_attention_layernorm", GGUF: "ffn_norm"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"attention_bias": true}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}
