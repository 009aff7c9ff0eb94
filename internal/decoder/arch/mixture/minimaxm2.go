package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// minimaxM2Arch is MiniMax-M2: norms of q and k over their whole width, rotation
// of a part of each head, a sigmoid router whose choice is corrected.
func minimaxM2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MiniMaxM2ForCausalLM"}, Type: "minimax_m2", GGUF: minimaxM2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 128)
			c.BOS = spec.Within(c.BOS, c.Vocab)
			c.QKNorm = true
			fraction := 1.0
			if w := f.Int("rotary_dim", 0); w > 0 && c.HeadDim > 0 {
				fraction = float64(w) / float64(c.HeadDim)
			}
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 5e6, fraction)
			f.Alias("num_local_experts", "num_experts")
			c.Experts = f.Int("num_local_experts", 256)
			s := program.Router{
				Experts: c.Experts, Top: spec.TopExperts(c, f, "num_experts_per_tok", 8), Sigmoid: true, Renormalize: true,
				Correction: "block_sparse_moe.e_score_correction_bias",
			}
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := b.QKV(h)
				b.NormSelf(q.Reg, "self_attn.q_norm", program.Norm{})
				b.NormSelf(k.Reg, "self_attn.k_norm", program.Norm{})
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", false)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				r := b.Route(h, "block_sparse_moe.gate", s)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, act, spec.WExperts), 1)
			}
		},
	}
}

func minimaxM2GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "minimax-m2", OwnHead: true, Fixed: sigmoidGate,
		Keys: []decoder.GGUFKey{
			{Name: "expert_count", Config: "num_local_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
			{Name: "expert_feed_forward_length", Config: "intermediate_size"},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFExperts("block_sparse_moe.gate", spec.WExperts),
			correctionName("block_sparse_moe.e_score_correction_bias")),
	}
}
