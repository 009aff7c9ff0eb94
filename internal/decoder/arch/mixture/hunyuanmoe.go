package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// hunyuanMoEArch is HunYuan's mixture of experts: its dense block with experts and
// an MLP for all tokens.
func hunyuanMoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"HunYuanMoEV1ForCausalLM"}, Type: "hunyuan_v1_moe",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			c.Rope = dense.ReadHunyuanRope(c, f)
			c.Experts = f.Int("num_experts", 1)
			top := spec.TopExperts(c, f, "moe_topk", 1)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				dense.HunyuanAttention(b, h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				r := b.Router(h, "mlp.gate.wg", c.Experts, top, true)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, act, spec.HubExperts), 1)
				b.GatedMLP(program.Stream, h, "mlp.shared_mlp.", act)
			}
		},
	}
}
