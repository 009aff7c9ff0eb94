package decoder

import "math"

// mptArch is MPT (MosaicML, 2023): ALiBi, LayerNorm without bias, clipped q, k, v.
func mptArch() *Architecture {
	return &Architecture{
		Classes: []string{"MptForCausalLM", "MPTForCausalLM"}, Type: "mpt",
		read: func(f *fields, c *Config) func(*builder) {
			f.alias("hidden_size", "d_model")
			f.alias("num_hidden_layers", "n_layers")
			f.alias("num_attention_heads", "n_heads")
			f.alias("max_position_embeddings", "max_seq_len")
			f.otherwise("intermediate_size", 4*f.int("hidden_size", 0))
			f.otherwise("tie_word_embeddings", true)
			c.readShape(f, 0, 0)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			if !f.bool("no_bias", true) {
				f.unsupported("no_bias", "false", "true")
			}
			if !f.null("logit_scale") {
				f.unsupported("logit_scale", shorten(f.values["logit_scale"]), "null")
			}
			scale, clip := 0.0, 0.0
			if o := f.object("attn_config"); o != nil {
				scale, clip = o.float("softmax_scale", 0), o.float("clip_qkv", 0)
				for _, key := range []string{"qk_ln", "prefix_lm"} {
					if o.bool(key, false) {
						o.unsupported(key, "true", "false")
					}
				}
				if kind := o.str("attn_type", "multihead_attention"); kind != "multihead_attention" {
					o.unsupported("attn_type", kind, "multihead_attention")
				}
				if !o.bool("alibi", true) {
					o.unsupported("alibi", "false", "true")
				}
				f.take(o)
			}
			norm := normSpec{layer: true}
			c.names = names{
				embedding: "transformer.wte.weight", finalNorm: "transformer.norm_f.weight", head: "lm_head.weight",
				block: "transformer.blocks.%d.",
			}
			c.head.norm = norm
			return func(b *builder) {
				h := b.norm(stream, "norm_1", norm)
				q, k, v := b.fusedQKV(h, "attn.Wqkv", false)
				b.clip(q.reg, clip)
				a := b.attend(attention{q: q, k: k, v: v, slopes: mptSlopes(c.Heads), scale: scale})
				b.addLinear(stream, a, "attn.out_proj", false)
				h = b.norm(stream, "norm_2", norm)
				b.twoLayerMLP(stream, h, "ffn.up_proj", "ffn.down_proj", c.Intermediate, gelu, false)
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
