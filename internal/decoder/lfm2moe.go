package decoder

import "encoding/json"

// lfm2MoEArch is LFM2's mixture of experts: a sigmoid router whose choice is
// corrected, behind the same mixers.
func lfm2MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Lfm2MoeForCausalLM"}, Type: "lfm2_moe",
		read: func(f *fields, c *Config) func(*builder) {
			f.values["block_auto_adjust_ff_dim"] = json.RawMessage("false")
			l := c.readLFM2(f)
			c.Experts = f.int("num_experts", 32)
			s := routerSpec{
				experts: c.Experts, top: c.topExperts(f, "num_experts_per_tok", 4), sigmoid: true,
				renormalize: f.bool("norm_topk_prob", true), plus: 1e-6, factor: f.float("routed_scaling_factor", 1),
			}
			if f.bool("use_expert_bias", true) {
				s.correction = "feed_forward.expert_bias"
			}
			width, dense := f.size("moe_intermediate_size", 1792), f.size0("num_dense_layers", 2)
			const expert = "feed_forward.experts.%d."
			names := expertNames{gate: expert + "w1", up: expert + "w3", down: expert + "w2"}
			return func(b *builder) {
				b.lfm2Mixer(l)
				h := b.norm(stream, "ffn_norm", normSpec{})
				if b.Index < dense {
					b.lfm2MLP(h)
					return
				}
				r := b.route(h, "feed_forward.gate", s)
				b.add(stream, b.experts(h, r, c.Experts, width, silu, names), 1)
			}
		},
	}
}
