package decoder

// seedOSSArch is Seed-OSS: Llama's block with biases of q, k and v, and of the
// others by configuration.
func seedOSSArch() *Architecture {
	return &Architecture{
		Classes: []string{"SeedOssForCausalLM"}, Type: "seed_oss", GGUF: seedOSSGGUF(),
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

func seedOSSGGUF() *GGUF {
	return &GGUF{
		Name:  "seed_oss",
		Flags: []GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "post_attention_norm"), ggufGated),
		Check: func(m *Model) error { return m.require(map[string]any{"mlp_bias": false, "attention_out_bias": false}) },
	}
}
