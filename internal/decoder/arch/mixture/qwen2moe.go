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
		Classes: []string{"Qwen2MoeForCausalLM"}, Type: "qwen2_moe", GGUF: qwen2MoEGGUF(),
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

// qwen2MoEGGUF: the engine has experts in every layer, whose weights stay as the
// softmax gives them.
func qwen2MoEGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "qwen2moe", OwnHead: true, Keys: QwenExpertKeys("shared_expert_intermediate_size"),
		Flags: []decoder.GGUFFlag{{Config: "qkv_bias", Tensors: []string{"attn_q.bias"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), QwenExpertNames()),
		Check: func(m *decoder.Model) error {
			if err := RequireExperts(m, false); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}

// QwenExpertNames are those of routed experts and of a shared one with a gate.
func QwenExpertNames() []decoder.GGUFName {
	return append(spec.GGUFExperts("mlp.gate", spec.HubExperts), []decoder.GGUFName{
		{HF: "mlp.shared_expert_gate", GGUF: "ffn_gate_inp_shexp", Flat: true},
		{HF: "mlp.shared_expert.gate_proj", GGUF: "ffn_gate_shexp"}, {HF: "mlp.shared_expert.up_proj", GGUF: "ffn_up_shexp"},
		{HF: "mlp.shared_expert.down_proj", GGUF: "ffn_down_shexp"},
	}...)
}

// QwenExpertKeys are the keys of experts; shared is "" where there is no shared one.
func QwenExpertKeys(shared string) []decoder.GGUFKey {
	keys := []decoder.GGUFKey{
		{Name: "expert_count", Config: "num_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
		{Name: "expert_feed_forward_length", Config: "moe_intermediate_size"},
	}
	if shared != "" {
		keys = append(keys, decoder.GGUFKey{Name: "expert_shared_feed_forward_length", Config: shared})
	}
	return keys
}

// RequireExperts refuses layers without experts, and weights of another norm.
func RequireExperts(m *decoder.Model, renormalize bool) error {
	for _, p := range m.Blocks {
		if hasLinear(p, "mlp.gate_proj") {
			return decoder.Refuse("mlp_only_layers", "layers without experts", m.GGUF.Name)
		}
	}
	return m.Require(map[string]any{"norm_topk_prob": renormalize})
}

func hasLinear(p *program.Program, path string) bool {
	return slices.ContainsFunc(p.Linears, func(l program.LinearInfo) bool { return l.Path == path })
}
