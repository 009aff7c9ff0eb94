package decoder

// seedOSSArch is Seed-OSS: Llama's block with biases of q, k and v, and of the
// others by configuration.
func seedOSSArch() *Architecture {
	return &Architecture{
		Classes: []string{"SeedOssForCausalLM"}, Type: "seed_oss",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 128)
			c.QKVBias = f.bool("attention_bias", true)
			c.OBias = f.bool("attention_out_bias", false)
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}
