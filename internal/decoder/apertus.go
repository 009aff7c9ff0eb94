package decoder

// apertusArch is Apertus (arXiv 2509.14233): Llama's block with norms of q and k
// and an MLP of xIELU.
func apertusArch() *Architecture {
	return &Architecture{
		Classes: []string{"ApertusForCausalLM"}, Type: "apertus",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			if f.null("rope_parameters") && f.null("rope_scaling") {
				f.values["rope_parameters"] = []byte(`{"rope_type": "llama3", "rope_theta": 12000000.0, "factor": 8.0,
					"original_max_position_embeddings": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}`)
			}
			c.Rope = c.readRope(f, fullAttention, 12e6)
			if act := f.str("hidden_act", "xielu"); f.err == nil && act != "xielu" {
				f.unsupported("hidden_act", act, "xielu")
			}
			return func(b *builder) {
				h := b.norm(stream, "attention_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "feedforward_layernorm", normSpec{})
				y := b.linear(h, "mlp.up_proj", c.Intermediate, false)
				b.xielu(y, "mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n")
				b.addLinear(stream, y, "mlp.down_proj", false)
			}
		},
	}
}
