package recurrent

import (
	"encoding/json"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// lfm2MoEArch is LFM2's mixture of experts: a sigmoid router whose choice is
// corrected, behind the same mixers.
func lfm2MoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Lfm2MoeForCausalLM"}, Type: "lfm2_moe",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Values["block_auto_adjust_ff_dim"] = json.RawMessage("false")
			l := readLFM2(c, f)
			c.Experts = f.Int("num_experts", 32)
			s := program.Router{
				Experts: c.Experts, Top: spec.TopExperts(c, f, "num_experts_per_tok", 4), Sigmoid: true,
				Renormalize: f.Bool("norm_topk_prob", true), Plus: 1e-6, Factor: f.Float("routed_scaling_factor", 1),
			}
			if f.Bool("use_expert_bias", true) {
				s.Correction = "feed_forward.expert_bias"
			}
			width, dense := f.Size("moe_intermediate_size", 1792), f.Size0("num_dense_layers", 2)
			const expert = "feed_forward.experts.%d."
			names := program.ExpertNames{Gate: expert + "w1", Up: expert + "w3", Down: expert + "w2"}
			return func(b *spec.Builder) {
				lfm2Mixer(b, l)
				h := b.Norm(program.Stream, "ffn_norm", program.Norm{})
				if b.Index < dense {
					lfm2MLP(b, h)
					return
				}
				r := b.Route(h, "feed_forward.gate", s)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, width, program.SiLU, names), 1)
			}
		},
	}
}
