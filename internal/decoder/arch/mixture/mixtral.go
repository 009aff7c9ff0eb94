package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// mixtralArch is Mixtral (Jiang et al., arXiv 2401.04088): a softmax router in
// front of gated experts, two of them for each token.
func mixtralArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MixtralForCausalLM"}, Type: "mixtral", GGUF: mixtralGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 1e6)
			w := spec.SlidingWindow(f, 0)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			c.Experts = f.Int("num_local_experts", 8)
			top := spec.TopExperts(c, f, "num_experts_per_tok", 2)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				r := b.Router(h, "block_sparse_moe.gate", c.Experts, top, true)
				const expert = "block_sparse_moe.experts.%d."
				y := b.Experts(h, r, c.Experts, c.Intermediate, act, program.ExpertNames{Gate: expert + "w1", Up: expert + "w3", Down: expert + "w2"})
				b.Add(program.Stream, y, 1)
			}
		},
	}
}

// mixtralGGUF is Llama with experts.
func mixtralGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "llama", Needs: "expert_count", RopeFreqs: true,
		Keys: []decoder.GGUFKey{{Name: "expert_count", Config: "num_local_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(true), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFExperts("block_sparse_moe.gate", spec.WExperts)),
	}
}
