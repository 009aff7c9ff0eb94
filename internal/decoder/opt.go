package decoder

// optArch is OPT (Zhang et al., arXiv 2205.01068): learned positions from row 2
// on, LayerNorm with biases, ReLU. The one of 350M normalizes after attention and
// MLP, and its embedding is narrower than the stream.
func optArch() *Architecture {
	return &Architecture{
		Classes: []string{"OPTForCausalLM"}, Type: "opt",
		read: func(f *fields, c *Config) func(*builder) {
			f.alias("intermediate_size", "ffn_dim")
			f.otherwise("tie_word_embeddings", true)
			c.readShape(f, 0, 0)
			c.NormEps = 1e-5
			bias := f.bool("enable_bias", true)
			norm := normSpec{layer: true, bias: true}
			if !f.bool("layer_norm_elementwise_affine", true) {
				norm = normSpec{layer: true, plain: true}
			}
			before := f.bool("do_layer_norm_before", true)
			act := readActivation(f, "activation_function", "relu")
			c.names = names{
				embedding: "model.decoder.embed_tokens.weight", finalNorm: "model.decoder.final_layer_norm.weight",
				head: "lm_head.weight", block: "model.decoder.layers.%d.", positions: "model.decoder.embed_positions.weight",
			}
			c.embed.offset = 2
			if w := f.int("word_embed_proj_dim", c.Hidden); w != c.Hidden {
				c.embed.width = w
				c.names.projectIn, c.names.projectOut = "model.decoder.project_in.weight", "model.decoder.project_out.weight"
			}
			c.head = headSpec{norm: norm, none: !before || f.bool("_remove_final_layer_norm", false)}
			return func(b *builder) { b.optBlock(norm, before, bias, act) }
		},
	}
}

func (b *builder) optBlock(norm normSpec, before, bias bool, act activation) {
	c := b.c
	const first, second = "self_attn_layer_norm", "final_layer_norm"
	var h reg
	if before {
		h = b.norm(stream, first, norm)
	} else {
		h = b.copied(stream)
	}
	q := b.linear(h, "self_attn.q_proj", c.Hidden, bias)
	k := b.linear(h, "self_attn.k_proj", c.Hidden, bias)
	v := b.linear(h, "self_attn.v_proj", c.Hidden, bias)
	a := b.attend(attention{q: b.whole(q, c.HeadDim), k: b.whole(k, c.HeadDim), v: b.whole(v, c.HeadDim)})
	b.addLinear(stream, a, "self_attn.out_proj", bias)
	if before {
		h = b.norm(stream, second, norm)
	} else {
		b.normSelf(stream, first, norm)
		h = b.copied(stream)
	}
	b.twoLayerMLP(stream, h, "fc1", "fc2", c.Intermediate, act, bias)
	if !before {
		b.normSelf(stream, second, norm)
	}
}
