package dense

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// gemmaArch is Gemma (arXiv 2403.08295): Llama's block with gains of 1+w,
// GeGLU and embeddings times the square root of their width.
func gemmaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GemmaForCausalLM"}, Type: "gemma", GGUF: gemmaGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			readGemma(c, f, 0)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			// transformers takes the exact GELU of old files for its approximation,
			// which the models were trained with.
			act := spec.ReadActivation(f, "hidden_act", "gelu_pytorch_tanh")
			if act == program.GELU {
				act = program.GELUTanh
			}
			return func(b *spec.Builder) {
				gain := program.Norm{PlusOne: true}
				h := b.Norm(program.Stream, "input_layernorm", gain)
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", gain)
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// gemma2Arch is Gemma 2 (arXiv 2408.00118): norms before and after attention and
// MLP, soft caps of scores and logits, every second layer with a window.
func gemma2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Gemma2ForCausalLM"}, Type: "gemma2", GGUF: gemma2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			readGemma(c, f, 4)
			c.Head.Cap = f.OrNull("final_logit_softcapping", 30)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.SlidingBut(2)), spec.SlidingWindow(f, 4096))
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			scale := 1 / math.Sqrt(f.Float("query_pre_attn_scalar", 256))
			cap := f.OrNull("attn_logit_softcapping", 50)
			act := spec.ReadActivation(f, "hidden_activation", "gelu_pytorch_tanh")
			return func(b *spec.Builder) { gemma2Block(b, c.Rope, scale, cap, act) }
		},
	}
}

// readGemma reads what all generations of Gemma share.
func readGemma(c *decoder.Config, f *spec.Fields, kvHeads int) {
	spec.ReadShape(c, f, kvHeads, 256)
	c.Tied = f.Bool("tie_word_embeddings", true)
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Embed.Scale = math.Sqrt(float64(c.Hidden))
	c.Head.Norm.PlusOne = true
	if f.Bool("use_bidirectional_attention", false) {
		f.Unsupported("use_bidirectional_attention", "true", "false")
	}
}

// gemma2Block is the block of Gemma 2 and 3.
func gemma2Block(b *spec.Builder, rope *program.Rope, scale, cap float64, act program.Activation) {
	c, gain := b.Config, program.Norm{PlusOne: true}
	h := b.Norm(program.Stream, "input_layernorm", gain)
	q, k, v := b.QKV(h)
	if c.QKNorm {
		b.HeadNorm(q, "self_attn.q_norm", gain, false)
		b.HeadNorm(k, "self_attn.k_norm", gain, false)
	}
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index), Scale: scale, Cap: cap})
	o := b.Linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.NormSelf(o, "post_attention_layernorm", gain)
	b.Add(program.Stream, o, 1)

	h = b.Norm(program.Stream, "pre_feedforward_layernorm", gain)
	y := b.MLPOutput(h, "mlp.", act)
	b.NormSelf(y, "post_feedforward_layernorm", gain)
	b.Add(program.Stream, y, 1)
}

// gemmaGGUF: the engine has the approximated GELU only, as the model.
func gemmaGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gemma", EmbeddingHead: true,
		Activation: decoder.GGUFActivation{Key: "hidden_act", Values: []string{"gelu_pytorch_tanh", "gelu", "gelu_new", "gelu_fast"}},
		Block: spec.Joined(spec.GGUFGain("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFGain("post_attention_layernorm", "ffn_norm"), spec.GGUFGated),
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"attention_bias": false}) },
	}
}

// gemma2GGUF: the engine takes the width of a head for the scale of attention but in the model of 46 layers.
func gemma2GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gemma2", EmbeddingHead: true, Period: 2, HeadWidth: "query_pre_attn_scalar", Largest: 46,
		Activation: spec.GELU("hidden_activation"),
		Keys: []decoder.GGUFKey{
			{Name: "attention.sliding_window", Config: "sliding_window"}, {Name: "attn_logit_softcapping", Config: "attn_logit_softcapping"},
			{Name: "final_logit_softcapping", Config: "final_logit_softcapping"},
		},
		Block: gemma2Names(),
		Check: func(m *decoder.Model) error {
			if m.Number("attn_logit_softcapping") == 0 || m.Number("final_logit_softcapping") == 0 {
				return decoder.Refuse("attn_logit_softcapping", "null", "gemma2")
			}
			return requireGemma(m)
		},
	}
}

func gemma2Names() []decoder.GGUFName {
	return spec.Joined(spec.GGUFGain("input_layernorm", "attn_norm"), spec.GGUFQKV(false),
		spec.GGUFGain("self_attn.q_norm", "attn_q_norm"), spec.GGUFGain("self_attn.k_norm", "attn_k_norm"), []decoder.GGUFName{spec.GGUFOutput},
		spec.GGUFGain("post_attention_layernorm", "post_attention_norm"), spec.GGUFGain("pre_feedforward_layernorm", "ffn_norm"),
		spec.GGUFGated, spec.GGUFGain("post_feedforward_layernorm", "post_ffw_norm"))
}

// requireGemma refuses biases, and scales of attention that the engine does not take.
func requireGemma(m *decoder.Model) error {
	if err := m.RequireScale(); err != nil {
		return err
	}
	return m.Require(map[string]any{"attention_bias": false})
}
