package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// apertusArch is Apertus (arXiv 2509.14233): Llama's block with norms of q and k
// and an MLP of xIELU.
func apertusArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"ApertusForCausalLM"}, Type: "apertus", GGUF: apertusGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			if f.Null("rope_parameters") && f.Null("rope_scaling") {
				f.Values["rope_parameters"] = []byte(`{"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0,
					"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}`)
			}
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 12e6)
			if act := f.Str("hidden_act", "xielu"); f.Err == nil && act != "xielu" {
				f.Unsupported("hidden_act", act, "xielu")
			}
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "attention_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "feedforward_layernorm", program.Norm{})
				y := b.Linear(h, "mlp.up_proj", c.Intermediate, false)
				b.XIELU(y, "mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n")
				b.AddLinear(program.Stream, y, "mlp.down_proj", false)
			}
		},
	}
}

// apertusGGUF: the numbers of the activation are in the metadata.
func apertusGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "apertus", RopeFreqs: true, Scaled: true, Activation: decoder.GGUFActivation{Key: "hidden_act", Values: []string{"xielu"}},
		Numbers: []decoder.GGUFNumber{
			{HF: "mlp.act_fn.alpha_p", Name: "xielu.alpha_p"}, {HF: "mlp.act_fn.alpha_n", Name: "xielu.alpha_n"},
			{HF: "mlp.act_fn.beta", Name: "xielu.beta", Constant: 0.5}, {HF: "mlp.act_fn.eps", Name: "xielu.eps", Constant: -1e-6},
		},
		Block: spec.Joined(spec.GGUFNorm("attention_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{
			spec.GGUFOutput, {HF: "feedforward_layernorm", GGUF: "ffn_norm"}, {HF: "mlp.up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"},
		}),
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"attention_bias": false}) },
	}
}
