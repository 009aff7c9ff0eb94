package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// olmoArch is OLMo (arXiv 2402.00838): Llama's block with LayerNorms that have
// no gains, and queries, keys and values clipped.
func olmoArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"OlmoForCausalLM"}, Type: "olmo", GGUF: olmoGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			clip := f.Float("clip_qkv", 0)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			c.NormEps = 1e-5
			norm := program.Norm{Layer: true, Plain: true}
			c.Head.Norm = norm
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", norm)
				q, k, v := b.QKV(h)
				for _, p := range []program.Heads{q, k, v} {
					b.Clip(p.Reg, clip)
				}
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", c.OBias)
				h = b.Norm(program.Stream, "post_attention_layernorm", norm)
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// olmo2Arch is OLMo 2 (arXiv 2501.00656): norms after attention and MLP instead
// of before, and of all queries and all keys together.
func olmo2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Olmo2ForCausalLM"}, Type: "olmo2", GGUF: olmo2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readOlmo2(c, f)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			return func(b *spec.Builder) { olmo2Block(b, c.Rope, act) }
		},
	}
}

// olmo3Arch is OLMo 3: OLMo 2's block, three layers with a window for each with
// full attention, and only the latter's rotation scaled.
func olmo3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Olmo3ForCausalLM"}, Type: "olmo3", GGUF: olmo3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			act := readOlmo2(c, f)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.SlidingBut(4)), spec.SlidingWindow(f, 4096))
			c.Rope = spec.LayerRope(c, f, 500000)
			local := slidingRope(c, f, 500000)
			noteLocal(f, local)
			return func(b *spec.Builder) {
				rope := c.Rope
				if c.Window(b.Index) > 0 {
					rope = local
				}
				olmo2Block(b, rope, act)
			}
		},
	}
}

// slidingRope is the rotation of layers with a window where only the other
// layers' is scaled.
func slidingRope(c *decoder.Config, f *spec.Fields, theta float64) *program.Rope {
	if p := f.Object("rope_parameters"); p != nil && !p.Null(spec.SlidingAttention) {
		return spec.ReadRope(c, f, spec.SlidingAttention, theta)
	}
	if c.Rope == nil {
		return nil
	}
	return &program.Rope{Theta: c.Rope.Theta, Dim: c.Rope.Dim}
}

func readOlmo2(c *decoder.Config, f *spec.Fields) program.Activation {
	spec.ReadShape(c, f, 0, 0)
	c.NormEps = f.Float("rms_norm_eps", 1e-5)
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	return spec.ReadActivation(f, "hidden_act", "silu")
}

func olmo2Block(b *spec.Builder, rope *program.Rope, act program.Activation) {
	c := b.Config
	q, k, v := b.QKV(program.Stream)
	b.NormSelf(q.Reg, "self_attn.q_norm", program.Norm{})
	b.NormSelf(k.Reg, "self_attn.k_norm", program.Norm{})
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
	o := b.Linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.NormSelf(o, "post_attention_layernorm", program.Norm{})
	b.Add(program.Stream, o, 1)
	y := b.MLPOutput(program.Stream, "mlp.", act)
	b.NormSelf(y, "post_feedforward_layernorm", program.Norm{})
	b.Add(program.Stream, y, 1)
}

func olmo2GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "olmo2", OwnHead: true,
		Block: spec.Joined(spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput}, spec.GGUFNorm("post_attention_layernorm", "post_attention_norm"),
			spec.GGUFGated, spec.GGUFNorm("post_feedforward_layernorm", "post_ffw_norm")),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}

// olmo3GGUF: the engine has one base for all rotations.
func olmo3GGUF() *decoder.GGUF {
	g := olmo2GGUF()
	plain := g.Check
	g.Needs, g.Period, g.Keys = "attention.sliding_window", 4, []decoder.GGUFKey{{Name: "attention.sliding_window", Config: "sliding_window"}}
	g.Check = func(m *decoder.Model) error {
		if m.Rope != nil && m.Number("rope_local_base_freq") != m.Rope.Theta {
			return decoder.Refuse("rope_parameters", "base of its own for windows", "olmo2")
		}
		if err := m.Require(map[string]any{"rope scaling of windows": ""}); err != nil {
			return err
		}
		return plain(m)
	}
	return g
}

// olmoGGUF: norms have no tensors.
func olmoGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "olmo", LayerNorm: true, Rename: map[string]string{"rms_norm_eps": ""}, Keys: []decoder.GGUFKey{{Name: "attention.clamp_kqv", Config: "clip_qkv"}},
		Block: spec.Joined(spec.GGUFQKV(true), []decoder.GGUFName{spec.GGUFOutput}, spec.GGUFGated),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}
