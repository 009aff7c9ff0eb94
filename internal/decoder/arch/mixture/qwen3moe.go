package mixture

import (
	"slices"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// qwen3MoEArch is Qwen3's mixture of experts: blocks of Qwen3 in which some or
// all MLPs are experts behind a softmax router.
func qwen3MoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen3MoeForCausalLM"}, Type: "qwen3_moe", GGUF: qwen3MoEGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 4, 0)
			c.QKNorm = true
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			dense.QwenWindows(c, f)
			c.Experts = f.Int("num_experts", f.Int("num_local_experts", 128))
			top := spec.TopExperts(c, f, "num_experts_per_tok", 8)
			width := f.Size("moe_intermediate_size", 768)
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
				const expert = "mlp.experts.%d."
				y := b.Experts(h, r, c.Experts, width, act, program.ExpertNames{Gate: expert + "gate_proj", Up: expert + "up_proj", Down: expert + "down_proj"})
				b.Add(program.Stream, y, 1)
			}
		},
	}
}

// qwen3MoEGGUF: the engine has experts in every layer, whose weights add up to 1.
func qwen3MoEGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "qwen3moe", Keys: QwenExpertKeys(""), Constants: map[string]any{"norm_topk_prob": true},
		Flags: []decoder.GGUFFlag{spec.AttentionBias},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFExperts("mlp.gate", spec.HubExperts)),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return RequireExperts(m, true)
		},
	}
}
