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
		Classes: []string{"ApertusForCausalLM"}, Type: "apertus",
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
