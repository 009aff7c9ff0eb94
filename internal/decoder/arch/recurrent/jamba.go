package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// jambaArch is Jamba (Lieber et al., arXiv 2403.19887): mixers of Mamba, attention
// without rotation in some layers, experts in others.
func jambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"JambaForCausalLM"}, Type: "jamba",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			m := mamba{
				inner: f.Size("mamba_expand", 2) * c.Hidden, state: f.Size("mamba_d_state", 16), conv: f.Size("mamba_d_conv", 4),
				rank: (c.Hidden + 15) / 16, bias: f.Bool("mamba_proj_bias", false), convBias: f.Bool("mamba_conv_bias", true),
				gains: true, act: spec.ReadActivation(f, "hidden_act", "silu"),
			}
			if !f.Auto("mamba_dt_rank") {
				m.rank = f.Size("mamba_dt_rank", m.rank)
			}
			attnStep, attnFirst := f.Size("attn_layer_period", 8), f.Int("attn_layer_offset", 4)
			step, first := f.Size("expert_layer_period", 2), f.Int("expert_layer_offset", 1)
			c.Experts = f.Int("num_experts", 16)
			top := 1
			if c.Experts > 1 {
				top = spec.TopExperts(c, f, "num_experts_per_tok", 2)
			}
			c.Names.FinalNorm = "model.final_layernorm.weight"
			const expert = "feed_forward.experts.%d."
			names := program.ExpertNames{Gate: expert + "gate_proj", Up: expert + "up_proj", Down: expert + "down_proj"}
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				if b.Index%attnStep == attnFirst {
					q, k, v := b.QKV(h)
					b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", false)
				} else {
					b.AddLinear(program.Stream, mixMamba(b, h, "mamba.", m), "mamba.out_proj", m.bias)
				}
				h = b.Norm(program.Stream, "pre_ff_layernorm", program.Norm{})
				if c.Experts > 1 && b.Index%step == first {
					r := b.Router(h, "feed_forward.router", c.Experts, top, false)
					b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, m.act, names), 1)
				} else {
					b.GatedMLP(program.Stream, h, "feed_forward.", m.act)
				}
			}
		},
	}
}
