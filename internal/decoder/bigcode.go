package decoder

// bigcodeArch is StarCoder (Li et al., arXiv 2305.06161): GPT-2 with one key head
// for all query heads.
func bigcodeArch() *Architecture {
	return &Architecture{
		Classes: []string{"GPTBigCodeForCausalLM"}, Type: "gpt_bigcode",
		read: func(f *fields, c *Config) func(*builder) {
			f.gptKeys("n_inner")
			multi := f.bool("multi_query", true)
			delete(f.values, "num_key_value_heads")
			if multi {
				f.otherwise("num_key_value_heads", 1)
			}
			c.readShape(f, 0, 0)
			c.BOS = within(c.BOS, c.Vocab)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			if f.bool("add_cross_attention", false) {
				f.unsupported("add_cross_attention", "true", "false")
			}
			scaled := f.bool("scale_attn_weights", true)
			act := readActivation(f, "activation_function", "gelu_pytorch_tanh")
			c.names = gptNames()
			c.head.norm = layerNorm
			return func(b *builder) {
				scale := 1.0
				if scaled {
					scale = headScale(c.HeadDim)
				}
				h := b.norm(stream, "ln_1", layerNorm)
				s := attention{scale: scale}
				if multi {
					s.q, s.k, s.v = b.fusedQKV(h, "attn.c_attn", true)
				} else {
					s.q, s.k, s.v = b.headwiseQKV(h, "attn.c_attn", true)
				}
				b.addLinear(stream, b.attend(s), "attn.c_proj", true)
				h = b.norm(stream, "ln_2", layerNorm)
				b.twoLayerMLP(stream, h, "mlp.c_fc", "mlp.c_proj", c.Intermediate, act, true)
			}
		},
	}
}
