package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// glmArch is GLM-4 as of 2024: Llama's block with gate and up in one matrix, half
// of each head rotated, in pairs of neighbours.
func glmArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GlmForCausalLM"}, Type: "glm", GGUF: glmGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readGLM(c, f)
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.AddLinear(program.Stream, fusedGate(b, h, act), "mlp.down_proj", false)
			}
		},
	}
}

// glm4Arch is GLM-4-0414: that with norms also after attention and MLP.
func glm4Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Glm4ForCausalLM"}, Type: "glm4", GGUF: glm4GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readGLM(c, f)
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := b.QKV(h)
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				o := b.Linear(b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", c.Hidden, c.OBias)
				b.NormSelf(o, "post_self_attn_layernorm", program.Norm{})
				b.Add(program.Stream, o, 1)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				y := b.Linear(fusedGate(b, h, act), "mlp.down_proj", c.Hidden, false)
				b.NormSelf(y, "post_mlp_layernorm", program.Norm{})
				b.Add(program.Stream, y, 1)
			}
		},
	}
}

func readGLM(c *decoder.Config, f *spec.Fields) program.Activation {
	spec.ReadShape(c, f, 2, 128)
	c.NormEps = f.Float("rms_norm_eps", 1.5625e-7)
	c.QKVBias = f.Bool("attention_bias", true)
	c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.5)
	if c.Rope != nil {
		c.Rope.Interleaved = true
	}
	return spec.ReadActivation(f, "hidden_act", "silu")
}

// glm4GGUF: gate and up stay in one matrix.
func glm4GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "glm4", Flags: []decoder.GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_self_attn_layernorm", "post_attention_norm"), spec.GGUFNorm("post_attention_layernorm", "ffn_norm"),
			[]decoder.GGUFName{{HF: "mlp.gate_up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}},
			spec.GGUFNorm("post_mlp_layernorm", "post_ffw_norm")),
	}
}

// glmGGUF is glm4GGUF without the norms after attention and MLP.
func glmGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "chatglm", Flags: []decoder.GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"),
			[]decoder.GGUFName{{HF: "mlp.gate_up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}}),
		Check: (*decoder.Model).RequireHidden,
	}
}
