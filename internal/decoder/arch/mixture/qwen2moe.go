package mixture

import (
	"slices"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// qwen2MoEArch is Qwen1.5's and Qwen2's mixture of experts: beside the routed
// experts a shared one, weighted by a sigmoid.
func qwen2MoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen2MoeForCausalLM"}, Type: "qwen2_moe",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 16, 0)
			c.QKVBias = f.Bool("qkv_bias", true)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			dense.QwenWindows(c, f)
			c.Experts = f.Int("num_experts", 60)
			top := spec.TopExperts(c, f, "num_experts_per_tok", 4)
			width, shared := f.Size("moe_intermediate_size", 1408), f.Size("shared_expert_intermediate_size", 5632)
			step := f.Size("decoder_sparse_step", 1)
			dense := f.Ints("mlp_only_layers")
			renormalize := f.Bool("norm_topk_prob", false)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				if slices.Contains(dense, b.Index) || (b.Index+1)%step != 0 {
					b.GatedMLP(program.Stream, h, "mlp.", act)
					return
				}
				r := b.Router(h, "mlp.gate", c.Experts, top, renormalize)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, width, act, spec.HubExperts), 1)
				b.GatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
			}
		},
	}
}
