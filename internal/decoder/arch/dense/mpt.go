package dense

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// mptArch is MPT (MosaicML, 2023): ALiBi, LayerNorm without bias, clipped q, k, v.
func mptArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MptForCausalLM", "MPTForCausalLM"}, Type: "mpt", GGUF: mptGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Alias("hidden_size", "d_model")
			f.Alias("num_hidden_layers", "n_layers")
			f.Alias("num_attention_heads", "n_heads")
			f.Alias("max_position_embeddings", "max_seq_len")
			f.Otherwise("intermediate_size", 4*f.Int("hidden_size", 0))
			f.Otherwise("tie_word_embeddings", true)
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			if !f.Bool("no_bias", true) {
				f.Unsupported("no_bias", "false", "true")
			}
			if !f.Null("logit_scale") {
				f.Unsupported("logit_scale", spec.Shorten(f.Values["logit_scale"]), "null")
			}
			scale, clip := 0.0, 0.0
			if o := f.Object("attn_config"); o != nil {
				scale, clip = o.Float("softmax_scale", 0), o.Float("clip_qkv", 0)
				for _, key := range []string{"qk_ln", "prefix_lm"} {
					if o.Bool(key, false) {
						o.Unsupported(key, "true", "false")
					}
				}
				if kind := o.Str("attn_type", "multihead_attention"); kind != "multihead_attention" {
					o.Unsupported("attn_type", kind, "multihead_attention")
				}
				if !o.Bool("alibi", true) {
					o.Unsupported("alibi", "false", "true")
				}
				f.Take(o)
				f.Note("attn_config.softmax_scale", scale)
				f.Note("attn_config.clip_qkv", clip)
			}
			norm := program.Norm{Layer: true}
			c.Names = decoder.Names{
				Embedding: "transformer.wte.weight", FinalNorm: "transformer.norm_f.weight", Head: "lm_head.weight",
				Block: "transformer.blocks.%d.",
			}
			c.Head.Norm = norm
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "norm_1", norm)
				q, k, v := fusedQKV(b, h, "attn.Wqkv", false)
				b.Clip(q.Reg, clip)
				a := b.Attend(program.Attention{Q: q, K: k, V: v, Slopes: mptSlopes(c.Heads), Scale: scale})
				b.AddLinear(program.Stream, a, "attn.out_proj", false)
				h = b.Norm(program.Stream, "norm_2", norm)
				b.TwoLayerMLP(program.Stream, h, "ffn.up_proj", "ffn.down_proj", c.Intermediate, program.GELU, false)
			}
		},
	}
}

// mptSlopes are the slopes of ALiBi in MPT: those of the next power of two of
// heads, if it is larger every other one first and then the rest. As in
// transformers they go down to 2^-8 whatever "alibi_bias_max" says.
func mptSlopes(n int) []float64 {
	all := 1
	for all < n {
		all *= 2
	}
	slope := func(i int) float64 { return math.Exp2(-8 * float64(i+1) / float64(all)) }
	var s []float64
	if all == n {
		for i := range n {
			s = append(s, slope(i))
		}
		return s
	}
	for _, first := range []int{1, 0} {
		for i := first; i < all && len(s) < n; i += 2 {
			s = append(s, slope(i))
		}
	}
	return s
}

// mptGGUF: the engine has the approximated GELU for the exact one.
func mptGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "mpt", LayerNorm: true, Unrotated: true,
		Rename: map[string]string{
			"hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "max_position_embeddings": "max_seq_len",
			"rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "", "head_dim": "", "hidden_act": "",
		},
		Keys:  []decoder.GGUFKey{{Name: "attention.clamp_kqv", Config: "attn_config.clip_qkv"}},
		Fixed: []decoder.GGUFFixed{{Name: "attention.max_alibi_bias", Value: float32(8)}},
		Block: []decoder.GGUFName{
			{HF: "norm_1", GGUF: "attn_norm"}, {HF: "attn.Wqkv", GGUF: "attn_qkv"}, {HF: "attn.out_proj", GGUF: "attn_output"},
			{HF: "norm_2", GGUF: "ffn_norm"}, {HF: "ffn.up_proj", GGUF: "ffn_up"}, {HF: "ffn.down_proj", GGUF: "ffn_down"},
		},
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"attn_config.softmax_scale": 0.0}) },
	}
}
