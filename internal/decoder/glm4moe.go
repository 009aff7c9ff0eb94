package decoder

// glm4MoEArch is GLM-4.5's mixture of experts (arXiv 2508.06471): norms of q and k,
// rotation of a part of each head, and the experts of DeepSeek-V3.
func glm4MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Glm4MoeForCausalLM"}, Type: "glm4_moe",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKNorm = f.bool("use_qk_norm", false)
			c.QKVBias = f.bool("attention_bias", false)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.5)
			s := c.readDeepseekExperts(f, deepseekExperts{experts: 128, top: 8, shared: 1, width: 1408, dense: 1, factor: 1, groups: 1, topGroups: 1})
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.deepseekMLP(h, s, act)
			}
		},
	}
}
