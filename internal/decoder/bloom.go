package decoder

// bloomArch is BLOOM (Scao et al., arXiv 2211.05100): ALiBi, a norm behind the
// embedding, q, k and v of each head side by side.
func bloomArch() *Architecture {
	return &Architecture{
		Classes: []string{"BloomForCausalLM"}, Type: "bloom", GGUF: bloomGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			f.alias("hidden_size", "n_embed")
			f.alias("num_hidden_layers", "n_layer")
			f.alias("num_attention_heads", "n_head")
			f.alias("max_position_embeddings", "seq_length")
			f.otherwise("intermediate_size", 4*f.int("hidden_size", 0))
			f.otherwise("tie_word_embeddings", true)
			c.readShape(f, 0, 0)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			after := f.bool("apply_residual_connection_post_layernorm", false)
			slopes := alibiSlopes(min(c.Heads, maxHeads))
			c.names = bloomNames()
			norm := layerNorm
			c.embed.norm = &norm
			c.head.norm = layerNorm
			return func(b *builder) { b.bloomBlock(slopes, after) }
		},
	}
}

// bloomNames are the names of tensors in BLOOM and Falcon.
func bloomNames() names {
	return names{
		embedding: "transformer.word_embeddings.weight", finalNorm: "transformer.ln_f.weight", head: "lm_head.weight",
		block: "transformer.h.%d.", embedNorm: "transformer.word_embeddings_layernorm.weight",
	}
}

// bloomBlock: with after, what is normalized takes the place of the stream.
func (b *builder) bloomBlock(slopes []float64, after bool) {
	c := b.c
	normed := func(path string) reg {
		h := b.norm(stream, path, layerNorm)
		if after {
			b.do(&copyOp{stream, h})
		}
		return h
	}
	h := normed("input_layernorm")
	q, k, v := b.headwiseQKV(h, "self_attention.query_key_value", true)
	b.addLinear(stream, b.attend(attention{q: q, k: k, v: v, slopes: slopes}), "self_attention.dense", true)
	h = normed("post_attention_layernorm")
	b.twoLayerMLP(stream, h, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.Intermediate, geluTanh, true)
}

func bloomGGUF() *GGUF {
	return &GGUF{
		Name: "bloom", LayerNorm: true, Context: 2048, Unrotated: true, Activation: GGUFActivation{Key: "bloom has one", Values: []string{""}},
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "", "head_dim": "", "num_hidden_layers": "n_layer",
			"num_attention_heads": "n_head", "bloom has one": "", "intermediate_size": "", "max_position_embeddings": "seq_length",
		},
		Block: []GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "self_attention.query_key_value", GGUF: "attn_qkv", Rows: splitHeads},
			{HF: "self_attention.dense", GGUF: "attn_output"}, {HF: "post_attention_layernorm", GGUF: "ffn_norm"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *Model) error {
			return m.require(map[string]any{"apply_residual_connection_post_layernorm": false})
		},
	}
}
