package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// stablelmArch is StableLM 2 (arXiv 2402.17834): Llama's block with LayerNorms, a
// quarter of each head rotated, and in some a norm for each head of q and k, or
// attention and MLP side by side.
func stablelmArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"StableLmForCausalLM"}, Type: "stablelm", GGUF: stablelmGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 32, 0)
			c.NormEps = f.Float("layer_norm_eps", 1e-5)
			c.QKVBias = f.Bool("use_qkv_bias", false)
			c.QKNorm = f.Bool("qk_layernorm", false)
			parallel := f.Bool("use_parallel_residual", false)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.25)
			norm := program.Norm{Layer: true, Bias: true}
			c.Head.Norm = norm
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", norm)
				q, k, v := b.QKV(h)
				if c.QKNorm {
					b.HeadNorms(q, stablelmQueryNorm, program.Norm{Layer: true})
					b.HeadNorms(k, stablelmKeyNorm, program.Norm{Layer: true})
				}
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				a := b.Attend(program.Attention{Q: q, K: k, V: v})
				b.AddLinear(program.Stream, a, "self_attn.o_proj", false)
				if !parallel {
					h = b.Norm(program.Stream, "post_attention_layernorm", norm)
				}
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// The norms of queries and keys are one tensor each, a row for each head.
const (
	stablelmQueryNorm = "self_attn.q_layernorm.norms.%d"
	stablelmKeyNorm   = "self_attn.k_layernorm.norms.%d"
)

func stablelmGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "stablelm", LayerNorm: true, OwnHead: true, Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Flags: []decoder.GGUFFlag{
			{Config: "use_qkv_bias", Tensors: []string{"attn_q.bias"}}, {Config: "qk_layernorm", Tensors: []string{"attn_q_norm.weight"}},
			{Config: "use_parallel_residual", Tensors: []string{"ffn_norm.weight"}, Absent: true},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			{HF: stablelmQueryNorm, GGUF: "attn_q_norm"}, {HF: stablelmKeyNorm, GGUF: "attn_k_norm", KeyHeads: true}, spec.GGUFOutput,
		}, spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFGated),
		Check: (*decoder.Model).RequireHidden,
	}
}
