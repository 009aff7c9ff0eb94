package decoder

// heliumArch is Helium: Llama's block with neighbours rotated.
func heliumArch() *Architecture {
	return &Architecture{
		Classes: []string{"HeliumForCausalLM"}, Type: "helium",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 20, 128)
			c.NormEps = f.float("rms_norm_eps", 1e-8)
			c.QKVBias = f.bool("attention_bias", false)
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 100000)
			if c.Rope != nil {
				c.Rope.Interleaved = true
			}
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}
