package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// smollm3Arch is SmolLM3: Llama's block, every fourth layer without rotation
// (Yang et al., arXiv 2501.18795), those with a window if there is one.
func smollm3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"SmolLM3ForCausalLM"}, Type: "smollm3", GGUF: smollm3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 4, 0)
			c.Tied = f.Bool("tie_word_embeddings", true)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 2e6)
			interval := f.Size("no_rope_layer_interval", 4)
			rotated := f.Ints("no_rope_layers") // 1 where there is a rotation
			for i := 0; f.Null("no_rope_layers") && i < min(c.Layers, decoder.MaxLayers); i++ {
				rotated = append(rotated, min((i+1)%interval, 1))
			}
			if f.Err == nil && len(rotated) != c.Layers {
				f.Fail("no_rope_layers", "%d entries, want num_hidden_layers %d", len(rotated), c.Layers)
				return nil
			}
			w := 0
			if f.Bool("use_sliding_window", false) {
				w = f.Int("sliding_window", 0)
			}
			types := spec.LayerTypes(c, f, func(i int) string {
				if w > 0 && i < len(rotated) && rotated[i] == 0 {
					return spec.SlidingAttention
				}
				return spec.FullAttention
			})
			spec.SetWindows(c, f, types, w)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				var rope *program.Rope
				if rotated[b.Index] != 0 {
					rope = c.Rope
				}
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.RotatedAttention(h, rope)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// smollm3GGUF: the engine leaves out every fourth rotation, whatever is said.
func smollm3GGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("smollm3", true, spec.AttentionBias, spec.MLPBias)
	g.RopeFreqs = false
	g.Check = func(m *decoder.Model) error {
		for i, p := range m.Blocks {
			if p.Rotates() != ((i+1)%4 != 0) {
				return decoder.Refuse("no_rope_layers", "such a pattern", "smollm3")
			}
		}
		return nil
	}
	return g
}
