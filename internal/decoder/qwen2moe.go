package decoder

import "slices"

// qwen2MoEArch is Qwen1.5's and Qwen2's mixture of experts: beside the routed
// experts a shared one, weighted by a sigmoid.
func qwen2MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen2MoeForCausalLM"}, Type: "qwen2_moe",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 16, 0)
			c.QKVBias = f.bool("qkv_bias", true)
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.qwenWindows(f)
			c.Experts = f.int("num_experts", 60)
			top := c.topExperts(f, "num_experts_per_tok", 4)
			width, shared := f.size("moe_intermediate_size", 1408), f.size("shared_expert_intermediate_size", 5632)
			step := f.size("decoder_sparse_step", 1)
			dense := f.ints("mlp_only_layers")
			renormalize := f.bool("norm_topk_prob", false)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				if slices.Contains(dense, b.Index) || (b.Index+1)%step != 0 {
					b.gatedMLP(stream, h, "mlp.", act)
					return
				}
				r := b.router(h, "mlp.gate", c.Experts, top, renormalize)
				b.add(stream, b.experts(h, r, c.Experts, width, act, hubExperts), 1)
				b.gatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
			}
		},
	}
}
