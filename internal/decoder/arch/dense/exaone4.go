package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// exaone4Arch is EXAONE 4 (arXiv 2507.11407): norms after attention and MLP
// instead of before, norms of q and k, and in models with windows rotations only
// in the layers that have one.
func exaone4Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Exaone4ForCausalLM"}, Type: "exaone4", GGUF: exaone4GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 32, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKNorm = true
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			w := spec.SlidingWindow(f, 4096)
			missing := spec.EveryLayer(0, 0)
			if w > 0 {
				missing = exaonePattern(f, c.Layers)
			}
			spec.SetWindows(c, f, spec.LayerTypes(c, f, missing), w)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				rope := c.Rope
				if w > 0 && c.Window(b.Index) == 0 {
					rope = nil
				}
				exaone4Block(b, rope, act)
			}
		},
	}
}

// exaonePattern reads which layers have a window: all but each n-th, or those
// with an L in letters that repeat, but for the last layer.
func exaonePattern(f *spec.Fields, layers int) func(i int) string {
	letters := ""
	if v := f.Values["sliding_window_pattern"]; len(v) > 0 && v[0] == '"' {
		letters = f.Str("sliding_window_pattern", "")
	}
	if letters == "" {
		return spec.SlidingBut(f.Size("sliding_window_pattern", 4))
	}
	return func(i int) string {
		if letters[i%len(letters)] == 'L' && i < layers-1 {
			return spec.SlidingAttention
		}
		return spec.FullAttention
	}
}

func exaone4Block(b *spec.Builder, rope *program.Rope, act program.Activation) {
	c := b.Config
	q, k, v := b.QKV(program.Stream)
	b.HeadNorm(q, "self_attn.q_norm", program.Norm{}, false)
	b.HeadNorm(k, "self_attn.k_norm", program.Norm{}, false)
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
	o := b.Linear(a, "self_attn.o_proj", c.Hidden, false)
	b.NormSelf(o, "post_attention_layernorm", program.Norm{})
	b.Add(program.Stream, o, 1)
	y := b.MLPOutput(program.Stream, "mlp.", act)
	b.NormSelf(y, "post_feedforward_layernorm", program.Norm{})
	b.Add(program.Stream, y, 1)
}

// exaone4GGUF: the engine has windows only in the model of 64 layers.
func exaone4GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "exaone4", RopeFreqs: true,
		Constants: map[string]any{"sliding_window": nil},
		Block: spec.Joined(spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput}, spec.GGUFNorm("post_attention_layernorm", "post_attention_norm"),
			spec.GGUFGated, spec.GGUFNorm("post_feedforward_layernorm", "post_ffw_norm")),
		Check: func(m *decoder.Model) error {
			if m.Number("sliding_window") != 0 {
				return decoder.Refuse("sliding_window", m.Value("sliding_window"), "exaone4 of this size")
			}
			return nil
		},
	}
}
