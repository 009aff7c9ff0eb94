package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// qwen2Arch is Qwen2 and Qwen2.5: biases of q, k and v.
func qwen2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen2ForCausalLM"}, Type: "qwen2", GGUF: qwen2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 32, 0)
			c.QKVBias = true
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			QwenWindows(c, f)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

// qwen3Arch is Qwen3: norms of q and k.
func qwen3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen3ForCausalLM"}, Type: "qwen3", GGUF: qwen3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 32, 128)
			c.QKNorm = true
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			QwenWindows(c, f)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

// QwenWindows reads windows that begin at a layer.
func QwenWindows(c *decoder.Config, f *spec.Fields) {
	w := 0
	if f.Bool("use_sliding_window", false) {
		w = spec.SlidingWindow(f, 4096)
	}
	spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, f.Int("max_window_layers", 28))), w)
}

// qwen3GGUF has no bias of the output of attention.
func qwen3GGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("qwen3", false, spec.AttentionBias)
	g.Check = func(m *decoder.Model) error { return m.Require(map[string]any{"attention_bias": false}) }
	return g
}

// qwen2GGUF: in the engine the heads are as wide together as the stream.
func qwen2GGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("qwen2", false)
	g.Check = (*decoder.Model).RequireHidden
	return g
}
