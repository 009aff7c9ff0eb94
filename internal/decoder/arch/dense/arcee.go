package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// arceeArch is Arcee's AFM: Llama's block with an MLP of squared ReLU.
func arceeArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"ArceeForCausalLM"}, Type: "arcee", GGUF: arceeGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			act := spec.ReadActivation(f, "hidden_act", "relu2")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				plainMLP(b, h, "mlp.up_proj", "mlp.down_proj", act)
			}
		},
	}
}

func arceeGGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("arcee", true, spec.AttentionBias, spec.MLPBias)
	g.Activation = decoder.GGUFActivation{Key: "hidden_act", Values: []string{"relu2"}}
	return g
}
