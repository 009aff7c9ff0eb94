package decoder

// hunyuanMoEArch is HunYuan's mixture of experts: its dense block with experts and
// an MLP for all tokens.
func hunyuanMoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"HunYuanMoEV1ForCausalLM"}, Type: "hunyuan_v1_moe",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			c.Rope = c.readHunyuanRope(f)
			c.Experts = f.int("num_experts", 1)
			top := c.topExperts(f, "moe_topk", 1)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.hunyuanAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				r := b.router(h, "mlp.gate.wg", c.Experts, top, true)
				b.add(stream, b.experts(h, r, c.Experts, c.Intermediate, act, hubExperts), 1)
				b.gatedMLP(stream, h, "mlp.shared_mlp.", act)
			}
		},
	}
}
