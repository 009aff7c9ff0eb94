package decoder

// olmoeArch is OLMoE (Muennighoff et al., arXiv 2409.02060): norms of q and k over
// their whole width, then q, k and v clipped.
func olmoeArch() *Architecture {
	return &Architecture{
		Classes: []string{"OlmoeForCausalLM"}, Type: "olmoe", GGUF: olmoeGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKNorm = true
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			clip := f.float("clip_qkv", 0)
			f.alias("num_experts", "num_local_experts")
			c.Experts = f.int("num_experts", 64)
			top := c.topExperts(f, "num_experts_per_tok", 8)
			renormalize := f.bool("norm_topk_prob", false)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.qkv(h)
				b.normSelf(q.reg, "self_attn.q_norm", normSpec{})
				b.normSelf(k.reg, "self_attn.k_norm", normSpec{})
				for _, r := range []reg{q.reg, k.reg, v.reg} {
					b.clip(r, clip)
				}
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", c.OBias)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				r := b.router(h, "mlp.gate", c.Experts, top, renormalize)
				b.add(stream, b.experts(h, r, c.Experts, c.Intermediate, act, hubExperts), 1)
			}
		},
	}
}

// olmoeGGUF: the engine clips nothing.
func olmoeGGUF() *GGUF {
	return &GGUF{
		Name: "olmoe", OwnHead: true, Constants: map[string]any{"norm_topk_prob": false},
		Keys: []GGUFKey{{"expert_count", "num_experts"}, {"expert_used_count", "num_experts_per_tok"}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), ggufQKNorms, []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), ggufExperts("mlp.gate", hubExperts)),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"attention_bias": false, "norm_topk_prob": false, "clip_qkv": 0.0}); err != nil {
				return err
			}
			if m.KVHeads != m.Heads { // the norm of keys is as wide as that of queries
				return refuse("num_key_value_heads", m.KVHeads, "olmoe")
			}
			return m.requireHidden()
		},
	}
}
