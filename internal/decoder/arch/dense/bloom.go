package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// bloomArch is BLOOM (Scao et al., arXiv 2211.05100): ALiBi, a norm behind the
// embedding, q, k and v of each head side by side.
func bloomArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"BloomForCausalLM"}, Type: "bloom", GGUF: bloomGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Alias("hidden_size", "n_embed")
			f.Alias("num_hidden_layers", "n_layer")
			f.Alias("num_attention_heads", "n_head")
			f.Alias("max_position_embeddings", "seq_length")
			f.Otherwise("intermediate_size", 4*f.Int("hidden_size", 0))
			f.Otherwise("tie_word_embeddings", true)
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			after := f.Bool("apply_residual_connection_post_layernorm", false)
			slopes := program.ALiBiSlopes(min(c.Heads, decoder.MaxHeads))
			c.Names = bloomNames()
			norm := spec.LayerNorm
			c.Embed.Norm = &norm
			c.Head.Norm = spec.LayerNorm
			return func(b *spec.Builder) { bloomBlock(b, slopes, after) }
		},
	}
}

// bloomNames are the names of tensors in BLOOM and Falcon.
func bloomNames() decoder.Names {
	return decoder.Names{
		Embedding: "transformer.word_embeddings.weight", FinalNorm: "transformer.ln_f.weight", Head: "lm_head.weight",
		Block: "transformer.h.%d.", EmbedNorm: "transformer.word_embeddings_layernorm.weight",
	}
}

// bloomBlock: with after, what is normalized takes the place of the stream.
func bloomBlock(b *spec.Builder, slopes []float64, after bool) {
	c := b.Config
	normed := func(path string) program.Reg {
		h := b.Norm(program.Stream, path, spec.LayerNorm)
		if after {
			b.Overwrite(program.Stream, h)
		}
		return h
	}
	h := normed("input_layernorm")
	q, k, v := headwiseQKV(b, h, "self_attention.query_key_value", true)
	b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v, Slopes: slopes}), "self_attention.dense", true)
	h = normed("post_attention_layernorm")
	b.TwoLayerMLP(program.Stream, h, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.Intermediate, program.GELUTanh, true)
}

func bloomGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "bloom", LayerNorm: true, Context: 2048, Unrotated: true, Activation: decoder.GGUFActivation{Key: "bloom has one", Values: []string{""}},
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "", "head_dim": "", "num_hidden_layers": "n_layer",
			"num_attention_heads": "n_head", "bloom has one": "", "intermediate_size": "", "max_position_embeddings": "seq_length",
		},
		Block: []decoder.GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "self_attention.query_key_value", GGUF: "attn_qkv", Rows: spec.SplitHeads},
			{HF: "self_attention.dense", GGUF: "attn_output"}, {HF: "post_attention_layernorm", GGUF: "ffn_norm"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *decoder.Model) error {
			return m.Require(map[string]any{"apply_residual_connection_post_layernorm": false})
		},
	}
}
