package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// llamaArch is Llama and what has its blocks under the same name.
func llamaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"LlamaForCausalLM"}, Type: "llama", GGUF: spec.LlamaGGUF("llama", true, spec.AttentionBias, spec.MLPBias),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(0, 0)), 0)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

// mistralArch is Mistral 7B and its successors of that name.
func mistralArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MistralForCausalLM"}, Type: "mistral", GGUF: spec.LlamaGGUF("llama", true),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			w := spec.SlidingWindow(f, 4096)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}
