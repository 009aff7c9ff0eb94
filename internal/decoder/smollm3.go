package decoder

// smollm3Arch is SmolLM3: Llama's block, every fourth layer without rotation
// (Yang et al., arXiv 2501.18795), those with a window if there is one.
func smollm3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"SmolLM3ForCausalLM"}, Type: "smollm3", GGUF: smollm3GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 4, 0)
			c.Tied = f.bool("tie_word_embeddings", true)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 2e6)
			interval := f.size("no_rope_layer_interval", 4)
			rotated := f.ints("no_rope_layers") // 1 where there is a rotation
			for i := 0; f.null("no_rope_layers") && i < min(c.Layers, maxLayers); i++ {
				rotated = append(rotated, min((i+1)%interval, 1))
			}
			if f.err == nil && len(rotated) != c.Layers {
				f.fail("no_rope_layers", "%d entries, want num_hidden_layers %d", len(rotated), c.Layers)
				return nil
			}
			w := 0
			if f.bool("use_sliding_window", false) {
				w = f.int("sliding_window", 0)
			}
			types := c.layerTypes(f, func(i int) string {
				if w > 0 && i < len(rotated) && rotated[i] == 0 {
					return slidingAttention
				}
				return fullAttention
			})
			c.setWindows(f, types, w)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				var rope *Rope
				if rotated[b.p.Index] != 0 {
					rope = c.Rope
				}
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.rotatedAttention(h, rope)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// smollm3GGUF: the engine leaves out every fourth rotation, whatever is said.
func smollm3GGUF() *GGUF {
	g := llamaGGUF("smollm3", true, attentionBias, mlpBias)
	g.RopeFreqs = false
	g.Check = func(m *Model) error {
		for i, p := range m.Blocks {
			if p.rotates() != ((i+1)%4 != 0) {
				return refuse("no_rope_layers", "such a pattern", "smollm3")
			}
		}
		return nil
	}
	return g
}

func (p *Program) rotates() bool {
	for _, o := range p.ops {
		if _, ok := o.(*rotateOp); ok {
			return true
		}
	}
	return false
}
