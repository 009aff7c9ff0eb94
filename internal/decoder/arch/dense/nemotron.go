package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// nemotronArch is Nemotron-4 and Minitron (arXiv 2402.16819): LayerNorms with
// gains of 1+w, half of each head rotated, an MLP of squared ReLU.
func nemotronArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"NemotronForCausalLM"}, Type: "nemotron", GGUF: nemotronGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.5)
			norm := program.Norm{Layer: true, PlusOne: true, Bias: true}
			c.Head.Norm = norm
			act := spec.ReadActivation(f, "hidden_act", "relu2")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", norm)
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", norm)
				plainMLP(b, h, "mlp.up_proj", "mlp.down_proj", act)
			}
		},
	}
}

// plainMLP adds an MLP of Intermediate without a gate to the residual stream.
func plainMLP(b *spec.Builder, h program.Reg, up, down string, act program.Activation) {
	c := b.Config
	y := b.Activate(act, b.Linear(h, up, c.Intermediate, c.MLPBias))
	b.AddLinear(program.Stream, y, down, c.MLPBias)
}

func nemotronGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "nemotron", LayerNorm: true, OwnHead: true, Activation: decoder.GGUFActivation{Key: "hidden_act", Values: []string{"relu2"}},
		Rename: map[string]string{"rms_norm_eps": "norm_eps"}, Flags: []decoder.GGUFFlag{spec.AttentionBias, spec.MLPBias},
		Block: spec.Joined(spec.GGUFGain("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFGain("post_attention_layernorm", "ffn_norm"), []decoder.GGUFName{{HF: "mlp.up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}}),
		Check: (*decoder.Model).RequireHidden,
	}
}
