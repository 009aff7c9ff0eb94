package decoder

// gpt2Arch is GPT-2 (Radford et al., 2019): learned positions, LayerNorm, and
// matrices that are stored as [in, out].
func gpt2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"GPT2LMHeadModel"}, Type: "gpt2", GGUF: gpt2GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			f.gptKeys("n_inner")
			c.readShape(f, 0, 0)
			c.BOS = within(c.BOS, c.Vocab)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			if f.bool("add_cross_attention", false) {
				f.unsupported("add_cross_attention", "true", "false")
			}
			scaled, byLayer := f.bool("scale_attn_weights", true), f.bool("scale_attn_by_inverse_layer_idx", false)
			act := readActivation(f, "activation_function", "gelu_new")
			c.names = gptNames()
			c.head.norm = layerNorm
			return func(b *builder) {
				scale := 1.0
				if scaled {
					scale = headScale(c.HeadDim)
				}
				if byLayer {
					scale /= float64(b.p.Index + 1)
				}
				b.gpt2Block(scale, act)
			}
		},
	}
}

// gptKeys reads the names that GPT-2 has for sizes. inner is the width of the MLP,
// four times that of the stream where it is absent.
func (f *fields) gptKeys(inner string) {
	f.alias("hidden_size", "n_embd")
	f.alias("num_hidden_layers", "n_layer")
	f.alias("num_attention_heads", "n_head")
	f.alias("max_position_embeddings", "n_positions")
	f.alias("intermediate_size", inner)
	f.otherwise("intermediate_size", 4*f.int("hidden_size", 0))
	f.otherwise("tie_word_embeddings", true)
}

// gptNames are the names of tensors in GPT-2 and what follows it.
func gptNames() names {
	return names{
		embedding: "transformer.wte.weight", finalNorm: "transformer.ln_f.weight", head: "lm_head.weight",
		block: "transformer.h.%d.", positions: "transformer.wpe.weight",
	}
}

// within is a token's id, or -1 if it is not in the vocabulary: configurations
// with the default of their class and a smaller vocabulary exist.
func within(id, vocab int) int {
	if id >= vocab {
		return -1
	}
	return id
}

func (b *builder) gpt2Block(scale float64, act activation) {
	c := b.c
	h := b.norm(stream, "ln_1", layerNorm)
	r := b.linear(h, "attn.c_attn", 3*c.Hidden, true)
	b.transposed()
	part := func(i int) heads { return heads{reg: r, n: c.Heads, dim: c.HeadDim, base: i * c.Hidden} }
	a := b.attend(attention{q: part(0), k: part(1), v: part(2), scale: scale})
	b.addLinear(stream, a, "attn.c_proj", true)
	b.transposed()
	h = b.norm(stream, "ln_2", layerNorm)
	u := b.linear(h, "mlp.c_fc", c.Intermediate, true)
	b.transposed()
	b.addLinear(stream, b.activate(act, u), "mlp.c_proj", true)
	b.transposed()
}

// transposed says that the last linear is stored as [in, out].
func (b *builder) transposed() {
	l := &b.p.Linears[len(b.p.Linears)-1]
	b.sliced(Slice{Weight: l.Path + ".weight", Bias: l.Path + ".bias", Transposed: true, Outputs: l.Out})
}

func gpt2GGUF() *GGUF {
	return &GGUF{
		Name: "gpt2", LayerNorm: true, Unrotated: true, Activation: geluActivation("activation_function"),
		Rename: map[string]string{
			"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "intermediate_size": "n_inner",
			"max_position_embeddings": "n_positions", "rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "", "head_dim": "",
		},
		Block: []GGUFName{
			{HF: "ln_1", GGUF: "attn_norm"}, {HF: "attn.c_attn", GGUF: "attn_qkv"}, {HF: "attn.c_proj", GGUF: "attn_output"},
			{HF: "ln_2", GGUF: "ffn_norm"}, {HF: "mlp.c_fc", GGUF: "ffn_up"}, {HF: "mlp.c_proj", GGUF: "ffn_down"},
		},
		Check: func(m *Model) error {
			return m.require(map[string]any{"scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false})
		},
	}
}
