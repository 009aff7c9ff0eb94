package decoder

// jambaArch is Jamba (Lieber et al., arXiv 2403.19887): mixers of Mamba, attention
// without rotation in some layers, experts in others.
func jambaArch() *Architecture {
	return &Architecture{
		Classes: []string{"JambaForCausalLM"}, Type: "jamba",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			m := mamba{
				inner: f.size("mamba_expand", 2) * c.Hidden, state: f.size("mamba_d_state", 16), conv: f.size("mamba_d_conv", 4),
				rank: (c.Hidden + 15) / 16, bias: f.bool("mamba_proj_bias", false), convBias: f.bool("mamba_conv_bias", true),
				gains: true, act: readActivation(f, "hidden_act", "silu"),
			}
			if !f.auto("mamba_dt_rank") {
				m.rank = f.size("mamba_dt_rank", m.rank)
			}
			attnStep, attnFirst := f.size("attn_layer_period", 8), f.int("attn_layer_offset", 4)
			step, first := f.size("expert_layer_period", 2), f.int("expert_layer_offset", 1)
			c.Experts = f.int("num_experts", 16)
			top := 1
			if c.Experts > 1 {
				top = c.topExperts(f, "num_experts_per_tok", 2)
			}
			c.names.finalNorm = "model.final_layernorm.weight"
			const expert = "feed_forward.experts.%d."
			names := expertNames{gate: expert + "gate_proj", up: expert + "up_proj", down: expert + "down_proj"}
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				if b.Index%attnStep == attnFirst {
					q, k, v := b.qkv(h)
					b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", false)
				} else {
					b.addLinear(stream, b.mixMamba(h, "mamba.", m), "mamba.out_proj", m.bias)
				}
				h = b.norm(stream, "pre_ff_layernorm", normSpec{})
				if c.Experts > 1 && b.Index%step == first {
					r := b.router(h, "feed_forward.router", c.Experts, top, false)
					b.add(stream, b.experts(h, r, c.Experts, c.Intermediate, m.act, names), 1)
				} else {
					b.gatedMLP(stream, h, "feed_forward.", m.act)
				}
			}
		},
	}
}
