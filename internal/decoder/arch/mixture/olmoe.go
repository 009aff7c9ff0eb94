package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// olmoeArch is OLMoE (Muennighoff et al., arXiv 2409.02060): norms of q and k over
// their whole width, then q, k and v clipped.
func olmoeArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"OlmoeForCausalLM"}, Type: "olmoe", GGUF: olmoeGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKNorm = true
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			clip := f.Float("clip_qkv", 0)
			f.Alias("num_experts", "num_local_experts")
			c.Experts = f.Int("num_experts", 64)
			top := spec.TopExperts(c, f, "num_experts_per_tok", 8)
			renormalize := f.Bool("norm_topk_prob", false)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := b.QKV(h)
				b.NormSelf(q.Reg, "self_attn.q_norm", program.Norm{})
				b.NormSelf(k.Reg, "self_attn.k_norm", program.Norm{})
				for _, r := range []program.Reg{q.Reg, k.Reg, v.Reg} {
					b.Clip(r, clip)
				}
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", c.OBias)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				r := b.Router(h, "mlp.gate", c.Experts, top, renormalize)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, act, spec.HubExperts), 1)
			}
		},
	}
}

// olmoeGGUF: the engine clips nothing.
func olmoeGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "olmoe", OwnHead: true, Constants: map[string]any{"norm_topk_prob": false},
		Keys: []decoder.GGUFKey{{Name: "expert_count", Config: "num_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFExperts("mlp.gate", spec.HubExperts)),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": false, "norm_topk_prob": false, "clip_qkv": 0.0}); err != nil {
				return err
			}
			if m.KVHeads != m.Heads { // the norm of keys is as wide as that of queries
				return decoder.Refuse("num_key_value_heads", m.KVHeads, "olmoe")
			}
			return m.RequireHidden()
		},
	}
}
