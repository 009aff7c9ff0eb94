package dense

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// graniteArch is Granite 3: Llama's block with factors of the embeddings, the
// scores, what a branch adds to the residual stream, and the logits.
func graniteArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GraniteForCausalLM"}, Type: "granite", GGUF: graniteGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(0, 0)), 0)
			m := ReadMultipliers(c, f)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				GraniteAttention(b, h, c.Rope, m)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.Add(program.Stream, b.MLPOutput(h, "mlp.", act), m.Residual)
			}
		},
	}
}

// Multipliers are the factors inside a block of the Granite family.
type Multipliers struct{ attention, Residual float64 }

// ReadMultipliers reads the factors of the Granite family.
func ReadMultipliers(c *decoder.Config, f *spec.Fields) Multipliers {
	factor := func(key string) float64 {
		v := f.Float(key, 1)
		if f.Err == nil && (v == 0 || math.IsNaN(v) || math.IsInf(v, 0)) {
			f.Fail(key, "%g, want a number that is not 0", v)
		}
		return v
	}
	c.Embed.Scale = factor("embedding_multiplier")
	c.Head.Scale = 1 / factor("logits_scaling")
	return Multipliers{factor("attention_multiplier"), factor("residual_multiplier")}
}

// GraniteAttention adds attention to the residual stream; without rope there is
// no rotation.
func GraniteAttention(b *spec.Builder, h program.Reg, rope *program.Rope, m Multipliers) {
	c := b.Config
	q, k, v := b.QKV(h)
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index), Scale: m.attention})
	b.Add(program.Stream, b.Linear(a, "self_attn.o_proj", c.Hidden, c.OBias), m.Residual)
}

func graniteGGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("granite", true, spec.AttentionBias, spec.MLPBias)
	g.Keys = GraniteKeys()
	return g
}

// GraniteKeys are the keys of Multipliers.
func GraniteKeys() []decoder.GGUFKey {
	return []decoder.GGUFKey{
		{Name: "embedding_scale", Config: "embedding_multiplier"}, {Name: "attention.scale", Config: "attention_multiplier"},
		{Name: "residual_scale", Config: "residual_multiplier"}, {Name: "logit_scale", Config: "logits_scaling"},
	}
}
