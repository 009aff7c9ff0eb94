package dense

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// gemma3Arch is the text model of Gemma 3 (arXiv 2503.19786): Gemma 2's block
// with norms of q and k instead of soft caps, five layers with a window for each
// with full attention, and a rotation for either.
func gemma3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Gemma3ForCausalLM"}, Type: "gemma3_text",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			readGemma(c, f, 4)
			c.QKNorm = true
			c.Head.Cap = f.Float("final_logit_softcapping", 0)
			pattern := f.Size("sliding_window_pattern", f.Size("_sliding_window_pattern", 6))
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.SlidingBut(pattern)), spec.SlidingWindow(f, 4096))
			c.Rope = spec.LayerRope(c, f, 1e6)
			local := localRope(c, f)
			scale := 1 / math.Sqrt(f.Float("query_pre_attn_scalar", 256))
			cap := f.Float("attn_logit_softcapping", 0)
			act := spec.ReadActivation(f, "hidden_activation", "gelu_pytorch_tanh")
			return func(b *spec.Builder) {
				rope := c.Rope
				if c.Window(b.Index) > 0 {
					rope = local
				}
				gemma2Block(b, rope, scale, cap, act)
			}
		},
	}
}

// gemma3ImageArch is Gemma 3 for images and text, whose logits transformers never
// caps.
func gemma3ImageArch() *spec.Architecture {
	a := spec.WithImages("Gemma3ForConditionalGeneration", "gemma3", "gemma3_text", map[string]map[string]int{
		"gemma3_text": {
			"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
			"num_attention_heads": 8, "max_position_embeddings": 131072,
		},
	}, gemma3Arch())
	read := a.Read
	a.Read = func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
		block := read(f, c)
		c.Head.Cap = 0
		return block
	}
	return a
}

// localRope is the rotation of layers with a window: a base of its own, no
// scaling.
func localRope(c *decoder.Config, f *spec.Fields) *program.Rope {
	if p := f.Object("rope_parameters"); p != nil && !p.Null(spec.SlidingAttention) {
		return spec.ReadRope(c, f, spec.SlidingAttention, 10000)
	}
	return &program.Rope{Theta: f.Float("rope_local_base_freq", 10000), Dim: c.HeadDim}
}
