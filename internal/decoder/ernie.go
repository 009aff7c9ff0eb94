package decoder

// ernieArch is ERNIE 4.5's dense models: Llama's block with neighbours rotated.
func ernieArch() *Architecture {
	return &Architecture{
		Classes: []string{"Ernie4_5ForCausalLM"}, Type: "ernie4_5", GGUF: ernieGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 2, 128)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.Tied = f.bool("tie_word_embeddings", true)
			c.QKVBias = f.bool("use_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 500000)
			if c.Rope != nil {
				c.Rope.Interleaved = true
			}
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

func ernieGGUF() *GGUF {
	g := llamaGGUF("ernie4_5", false)
	g.RopeFreqs = false
	g.Constants = map[string]any{"use_bias": false}
	g.Check = func(m *Model) error { return m.require(map[string]any{"use_bias": false}) }
	return g
}
