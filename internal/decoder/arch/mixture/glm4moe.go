package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// glm4MoEArch is GLM-4.5's mixture of experts (arXiv 2508.06471): norms of q and k,
// rotation of a part of each head, and the experts of DeepSeek-V3.
func glm4MoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Glm4MoeForCausalLM"}, Type: "glm4_moe", GGUF: glm4MoEGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKNorm = f.Bool("use_qk_norm", false)
			c.QKVBias = f.Bool("attention_bias", false)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.5)
			s := ReadDeepseekExperts(c, f, DeepseekExperts{Experts: 128, Top: 8, Shared: 1, Width: 1408, dense: 1, Factor: 1, Groups: 1, TopGroups: 1})
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				deepseekMLP(b, h, s, act)
			}
		},
	}
}

func glm4MoEGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "glm4moe", Keys: deepseekKeys(), Fixed: sigmoidGate,
		Flags: []decoder.GGUFFlag{
			{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}, {Config: "use_qk_norm", Tensors: []string{"attn_q_norm.weight"}},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "post_attention_norm"), deepseekNames()),
		Check: requireShared,
	}
}
