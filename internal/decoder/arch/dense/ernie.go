package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// ernieArch is ERNIE 4.5's dense models: Llama's block with neighbours rotated.
func ernieArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Ernie4_5ForCausalLM"}, Type: "ernie4_5", GGUF: ernieGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 2, 128)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.Tied = f.Bool("tie_word_embeddings", true)
			c.QKVBias = f.Bool("use_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 500000)
			if c.Rope != nil {
				c.Rope.Interleaved = true
			}
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

func ernieGGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("ernie4_5", false)
	g.RopeFreqs = false
	g.Constants = map[string]any{"use_bias": false}
	g.Check = func(m *decoder.Model) error { return m.Require(map[string]any{"use_bias": false}) }
	return g
}
