package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// gpt2Arch is GPT-2 (Radford et al., 2019): learned positions, LayerNorm, and
// matrices that are stored as [in, out].
func gpt2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GPT2LMHeadModel"}, Type: "gpt2", GGUF: gpt2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			gptKeys(f, "n_inner")
			spec.ReadShape(c, f, 0, 0)
			c.BOS = spec.Within(c.BOS, c.Vocab)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			if f.Bool("add_cross_attention", false) {
				f.Unsupported("add_cross_attention", "true", "false")
			}
			scaled, byLayer := f.Bool("scale_attn_weights", true), f.Bool("scale_attn_by_inverse_layer_idx", false)
			act := spec.ReadActivation(f, "activation_function", "gelu_new")
			c.Names = gptNames()
			c.Head.Norm = spec.LayerNorm
			return func(b *spec.Builder) {
				scale := 1.0
				if scaled {
					scale = program.HeadScale(c.HeadDim)
				}
				if byLayer {
					scale /= float64(b.Index + 1)
				}
				gpt2Block(b, scale, act)
			}
		},
	}
}

// gptKeys reads the names that GPT-2 has for sizes. inner is the width of the MLP,
// four times that of the stream where it is absent.
func gptKeys(f *spec.Fields, inner string) {
	f.Alias("hidden_size", "n_embd")
	f.Alias("num_hidden_layers", "n_layer")
	f.Alias("num_attention_heads", "n_head")
	f.Alias("max_position_embeddings", "n_positions")
	f.Alias("intermediate_size", inner)
	f.Otherwise("intermediate_size", 4*f.Int("hidden_size", 0))
	f.Otherwise("tie_word_embeddings", true)
}

// gptNames are the names of tensors in GPT-2 and what follows it.
func gptNames() decoder.Names {
	return decoder.Names{
		Embedding: "transformer.wte.weight", FinalNorm: "transformer.ln_f.weight", Head: "lm_head.weight",
		Block: "transformer.h.%d.", Positions: "transformer.wpe.weight",
	}
}

func gpt2Block(b *spec.Builder, scale float64, act program.Activation) {
	c := b.Config
	h := b.Norm(program.Stream, "ln_1", spec.LayerNorm)
	r := b.Linear(h, "attn.c_attn", 3*c.Hidden, true)
	b.Transposed()
	part := func(i int) program.Heads {
		return program.Heads{Reg: r, N: c.Heads, Dim: c.HeadDim, Base: i * c.Hidden}
	}
	a := b.Attend(program.Attention{Q: part(0), K: part(1), V: part(2), Scale: scale})
	b.AddLinear(program.Stream, a, "attn.c_proj", true)
	b.Transposed()
	h = b.Norm(program.Stream, "ln_2", spec.LayerNorm)
	u := b.Linear(h, "mlp.c_fc", c.Intermediate, true)
	b.Transposed()
	b.AddLinear(program.Stream, b.Activate(act, u), "mlp.c_proj", true)
	b.Transposed()
}

func gpt2GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gpt2", LayerNorm: true, Unrotated: true, Activation: spec.GELU("activation_function"),
		Rename: map[string]string{
			"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "intermediate_size": "n_inner",
			"max_position_embeddings": "n_positions", "rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "", "head_dim": "",
		},
		Block: []decoder.GGUFName{
			{HF: "ln_1", GGUF: "attn_norm"}, {HF: "attn.c_attn", GGUF: "attn_qkv"}, {HF: "attn.c_proj", GGUF: "attn_output"},
			{HF: "ln_2", GGUF: "ffn_norm"}, {HF: "mlp.c_fc", GGUF: "ffn_up"}, {HF: "mlp.c_proj", GGUF: "ffn_down"},
		},
		Check: func(m *decoder.Model) error {
			return m.Require(map[string]any{"scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false})
		},
	}
}
