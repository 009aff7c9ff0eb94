package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// ministralArch is Ministral: Mistral's block with windows by layer.
func ministralArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MinistralForCausalLM"}, Type: "ministral", GGUF: spec.LlamaGGUF("llama", true),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			w := spec.SlidingWindow(f, 4096)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

// ministral3Arch is Ministral 3: Llama's block with YaRN, and queries that grow
// with the position.
func ministral3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Ministral3ForCausalLM"}, Type: "ministral3", GGUF: ministral3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 128)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			if f.Null("rope_parameters") && f.Null("rope_scaling") {
				f.Values["rope_parameters"] = []byte(`{"rope_type": "yarn", "rope_theta": 1000000.0, "factor": 16.0,
					"original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0,
					"mscale_all_dim": 1.0, "mscale": 1.0, "llama_4_scaling_beta": 0.1}`)
			}
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			beta, length := readGrowth(f)
			w := f.Int("sliding_window", 0)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := b.QKV(h)
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				if beta != 0 {
					b.Grow(q, beta, length)
				}
				a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
				b.AddLinear(program.Stream, a, "self_attn.o_proj", false)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// mistral3Arch is Mistral Small 3 and Ministral 3 for images and text.
func mistral3Arch() *spec.Architecture {
	a := spec.WithImages("Mistral3ForConditionalGeneration", "mistral3", "mistral", map[string]map[string]int{
		"mistral": {
			"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
			"num_attention_heads": 32, "max_position_embeddings": 131072,
		},
		"ministral3": {
			"vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
			"num_attention_heads": 32, "max_position_embeddings": 262144,
		},
	}, mistralArch(), ministralArch(), ministral3Arch(), llamaArch())
	a.GGUF = spec.LlamaGGUF("llama", true)
	a.GGUF.Images = true
	a.GGUF.Check = func(m *decoder.Model) error { return m.Require(map[string]any{"model_type": "mistral"}) }
	inner := ministral3GGUF()
	inner.Images = true
	a.GGUF.Inner = map[string]*decoder.GGUF{"ministral3": inner}
	return a
}

// ministral3GGUF: queries grow from the end of the original context of YaRN on.
func ministral3GGUF() *decoder.GGUF {
	g := spec.LlamaGGUF("mistral3", true)
	g.YarnLog, g.Grows, g.Scaled = true, true, true
	g.Keys = []decoder.GGUFKey{{Name: "attention.temperature_scale", Config: growthKey}}
	g.Check = func(m *decoder.Model) error {
		if m.Rope == nil || m.Rope.Scaling.Type != "yarn" {
			return m.Require(map[string]any{growthKey: 0.0})
		}
		return nil
	}
	return g
}

const growthKey = "llama_4_scaling_beta"

// readGrowth reads the growth of queries with the position, which is beside the
// scaling of the rotation.
func readGrowth(f *spec.Fields) (beta float64, length int) {
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.Object(key); o != nil {
			beta = o.Float(growthKey, beta)
			length = o.Int("original_max_position_embeddings", length)
			f.Take(o)
		}
	}
	if f.Err == nil && beta != 0 && length < 1 {
		f.Fail("original_max_position_embeddings", "%d, want a positive number", length)
	}
	f.Note(growthKey, beta)
	return beta, length
}
