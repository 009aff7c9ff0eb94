package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// starcoder2Arch is StarCoder 2 (arXiv 2402.19173): LayerNorms and biases
// everywhere, an MLP without gate, a window.
func starcoder2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Starcoder2ForCausalLM"}, Type: "starcoder2",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 2, 0)
			c.NormEps = f.Float("norm_epsilon", 1e-5)
			c.Tied = f.Bool("tie_word_embeddings", true)
			c.QKVBias = f.Bool("use_bias", true)
			c.OBias, c.MLPBias = c.QKVBias, c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			w := f.Int("sliding_window", 0)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			norm := program.Norm{Layer: true, Bias: true}
			c.Head.Norm = norm
			act := spec.ReadActivation(f, "hidden_act", "gelu_pytorch_tanh")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", norm)
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", norm)
				plainMLP(b, h, "mlp.c_fc", "mlp.c_proj", act)
			}
		},
	}
}
