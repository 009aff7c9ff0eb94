package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// heliumArch is Helium: Llama's block with neighbours rotated.
func heliumArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"HeliumForCausalLM"}, Type: "helium",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 20, 128)
			c.NormEps = f.Float("rms_norm_eps", 1e-8)
			c.QKVBias = f.Bool("attention_bias", false)
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 100000)
			if c.Rope != nil {
				c.Rope.Interleaved = true
			}
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}
