package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// cohereArch is Command R: attention and MLP side by side on one LayerNorm
// without bias, neighbours rotated, logits scaled.
func cohereArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"CohereForCausalLM"}, Type: "cohere", GGUF: cohereGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readCohere(c, f)
			c.QKNorm = f.Bool("use_qk_norm", false)
			return func(b *spec.Builder) { cohereBlock(b, c.Rope, act) }
		},
	}
}

// cohere2Arch is Command R7B and Command A: three layers with a window for each
// with full attention, and rotations only in the former.
func cohere2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Cohere2ForCausalLM"}, Type: "cohere2", GGUF: cohere2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readCohere(c, f)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.SlidingBut(f.Size("sliding_window_pattern", 4))), spec.SlidingWindow(f, 4096))
			return func(b *spec.Builder) {
				rope := c.Rope
				if c.Window(b.Index) == 0 {
					rope = nil
				}
				cohereBlock(b, rope, act)
			}
		},
	}
}

func readCohere(c *decoder.Config, f *spec.Fields) program.Activation {
	spec.ReadShape(c, f, 0, 0)
	c.NormEps = f.Float("layer_norm_eps", 1e-5)
	c.Tied = f.Bool("tie_word_embeddings", true)
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = spec.ReadRope(c, f, spec.FullAttention, 500000)
	if c.Rope != nil {
		c.Rope.Interleaved = true
	}
	c.Head = decoder.HeadSpec{Norm: program.Norm{Layer: true}, Scale: f.Float("logit_scale", 0.0625)}
	return spec.ReadActivation(f, "hidden_act", "silu")
}

func cohereBlock(b *spec.Builder, rope *program.Rope, act program.Activation) {
	c, norm := b.Config, program.Norm{Layer: true}
	h := b.Norm(program.Stream, "input_layernorm", norm)
	q, k, v := b.QKV(h)
	if c.QKNorm {
		b.HeadNorm(q, "self_attn.q_norm", norm, true)
		b.HeadNorm(k, "self_attn.k_norm", norm, true)
	}
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
	b.AddLinear(program.Stream, a, "self_attn.o_proj", c.OBias)
	b.GatedMLP(program.Stream, h, "mlp.", act)
}

func cohereGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "command-r", LayerNorm: true, EmbeddingHead: true, Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Keys:  []decoder.GGUFKey{{Name: "logit_scale", Config: "logit_scale"}},
		Flags: []decoder.GGUFFlag{{Config: "use_qk_norm", Tensors: []string{"attn_q_norm.weight"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput}, spec.GGUFGated),
		Check: func(m *decoder.Model) error {
			// The engine tells models with norms by their layers.
			if err := m.Require(map[string]any{"attention_bias": false, "use_qk_norm": m.Layers >= 64}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}

func cohere2GGUF() *decoder.GGUF {
	g := cohereGGUF()
	g.Name, g.Period, g.Flags = "cohere2", 4, nil
	g.Keys = append(g.Keys, decoder.GGUFKey{Name: "attention.sliding_window", Config: "sliding_window"})
	return g
}
