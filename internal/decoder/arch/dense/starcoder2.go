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
		Classes: []string{"Starcoder2ForCausalLM"}, Type: "starcoder2", GGUF: starcoder2GGUF(),
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

// starcoder2GGUF: the engine has no windows and wants the biases.
func starcoder2GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "starcoder2", LayerNorm: true, Activation: spec.GELU("hidden_act"), Rename: map[string]string{"rms_norm_eps": "norm_epsilon"},
		Constants: map[string]any{"sliding_window": nil},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), []decoder.GGUFName{{HF: "mlp.c_fc", GGUF: "ffn_up"}, {HF: "mlp.c_proj", GGUF: "ffn_down"}}),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"use_bias": true}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}
