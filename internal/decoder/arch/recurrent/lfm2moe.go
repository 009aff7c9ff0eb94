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
		Classes: []string{"Lfm2MoeForCausalLM"}, Type: "lfm2_moe", GGUF: lfm2MoEGGUF(),
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

// lfm2MoEGGUF: weights add up to 1.
func lfm2MoEGGUF() *decoder.GGUF {
	g := lfm2GGUF()
	g.Name = "lfm2moe"
	g.Keys = append(g.Keys, []decoder.GGUFKey{
		{Name: "expert_count", Config: "num_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
		{Name: "expert_feed_forward_length", Config: "moe_intermediate_size"}, {Name: "leading_dense_block_count", Config: "num_dense_layers", Zero: true},
	}...)
	g.Fixed = []decoder.GGUFFixed{{Name: "expert_gating_func", Value: uint32(2)}}
	const expert = "feed_forward.experts.%d."
	g.Block = append(g.Block, spec.GGUFExperts("feed_forward.gate", program.ExpertNames{Gate: expert + "w1", Up: expert + "w3", Down: expert + "w2"})...)
	g.Block = append(g.Block, decoder.GGUFName{HF: "feed_forward.expert_bias", GGUF: "exp_probs_b.bias", Whole: true})
	check := g.Check
	g.Check = func(m *decoder.Model) error {
		if err := m.Require(map[string]any{"norm_topk_prob": true, "use_expert_bias": true, "routed_scaling_factor": 1.0}); err != nil {
			return err
		}
		return check(m)
	}
	return g
}
