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
		Classes: []string{"HunYuanMoEV1ForCausalLM"}, Type: "hunyuan_v1_moe", GGUF: hunyuanMoEGGUF(),
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

// hunyuanMoEGGUF: as with the dense models the base of the rotation is the one
// that scaling gives.
func hunyuanMoEGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "hunyuan-moe", RopeFreqs: true, Constants: map[string]any{"attention_bias": false},
		Keys: []decoder.GGUFKey{
			{Name: "expert_count", Config: "num_experts"}, {Name: "expert_used_count", Config: "moe_topk"},
			{Name: "expert_feed_forward_length", Config: "intermediate_size"}, {Name: "expert_shared_feed_forward_length", Config: "intermediate_size"},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			{HF: "self_attn.query_layernorm", GGUF: "attn_q_norm"}, {HF: "self_attn.key_layernorm", GGUF: "attn_k_norm"}, spec.GGUFOutput,
		}, spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFExperts("mlp.gate.wg", spec.HubExperts), sharedNames("mlp.shared_mlp.")),
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"attention_bias": false}) },
	}
}
