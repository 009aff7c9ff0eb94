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
		Classes: []string{"Gemma3ForCausalLM"}, Type: "gemma3_text", GGUF: gemma3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			readGemma(c, f, 4)
			c.QKNorm = true
			c.Head.Cap = f.Float("final_logit_softcapping", 0)
			pattern := f.Size("sliding_window_pattern", f.Size("_sliding_window_pattern", 6))
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.SlidingBut(pattern)), spec.SlidingWindow(f, 4096))
			c.Rope = spec.LayerRope(c, f, 1e6)
			local := localRope(c, f)
			noteLocal(f, local)
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
	a.GGUF = gemma3GGUF()
	a.GGUF.Images = true
	read := a.Read
	a.Read = func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
		block := read(f, c)
		c.Head.Cap = 0
		f.Note("final_logit_softcapping", 0.0)
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

// gemma3GGUF: the engine scales the rotations of full attention only, and has no
// soft caps where there are windows.
func gemma3GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gemma3", EmbeddingHead: true, Period: 6, HeadWidth: "query_pre_attn_scalar", Largest: 62,
		Activation: spec.GELU("hidden_activation"),
		Keys: []decoder.GGUFKey{
			{Name: "attention.sliding_window", Config: "sliding_window"}, {Name: "rope.freq_base_swa", Config: "rope_local_base_freq"},
		},
		Block: gemma2Names(),
		Check: func(m *decoder.Model) error {
			err := m.Require(map[string]any{
				"final_logit_softcapping": 0.0, "attn_logit_softcapping": 0.0, "rope scaling of windows": "",
			})
			if err != nil {
				return err
			}
			return requireGemma(m)
		},
	}
}

// noteLocal records the rotation of layers with a window.
func noteLocal(f *spec.Fields, r *program.Rope) {
	if r != nil {
		f.Note("rope_local_base_freq", r.Theta)
		f.Note("rope scaling of windows", r.Scaling.Type)
	}
}
