package recurrent

import (
	"slices"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// bambaArch is Bamba (IBM, 2024): mixers of Mamba-2, and attention in some layers.
func bambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"BambaForCausalLM"}, Type: "bamba",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, f.Bool("mlp_bias", false)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.5)
			full := f.Ints("attn_layer_indices")
			m := readMamba2(c, f, f.Size("mamba_expand", 2)*c.Hidden, 256)
			m.act = spec.ReadActivation(f, "hidden_act", "silu")
			c.Names.FinalNorm = "model.final_layernorm.weight"
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				if slices.Contains(full, b.Index) {
					b.PlainAttention(h)
				} else {
					b.AddLinear(program.Stream, mixMamba2(b, h, "mamba.", m), "mamba.out_proj", m.bias)
				}
				b.GatedMLP(program.Stream, b.Norm(program.Stream, "pre_ff_layernorm", program.Norm{}), "feed_forward.", m.act)
			}
		},
	}
}
