package decoder

// minimaxM2Arch is MiniMax-M2: norms of q and k over their whole width, rotation
// of a part of each head, a sigmoid router whose choice is corrected.
func minimaxM2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"MiniMaxM2ForCausalLM"}, Type: "minimax_m2",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 128)
			c.BOS = within(c.BOS, c.Vocab)
			c.QKNorm = true
			fraction := 1.0
			if w := f.int("rotary_dim", 0); w > 0 && c.HeadDim > 0 {
				fraction = float64(w) / float64(c.HeadDim)
			}
			c.Rope = c.readPartialRope(f, fullAttention, 5e6, fraction)
			f.alias("num_local_experts", "num_experts")
			c.Experts = f.int("num_local_experts", 256)
			s := routerSpec{
				experts: c.Experts, top: c.topExperts(f, "num_experts_per_tok", 8), sigmoid: true, renormalize: true,
				correction: "block_sparse_moe.e_score_correction_bias",
			}
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.qkv(h)
				b.normSelf(q.reg, "self_attn.q_norm", normSpec{})
				b.normSelf(k.reg, "self_attn.k_norm", normSpec{})
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", false)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				r := b.route(h, "block_sparse_moe.gate", s)
				b.add(stream, b.experts(h, r, c.Experts, c.Intermediate, act, wExperts), 1)
			}
		},
	}
}
