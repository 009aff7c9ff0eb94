package decoder

// llamaArch is Llama and what has its blocks under the same name.
func llamaArch() *Architecture {
	return &Architecture{
		Classes: []string{"LlamaForCausalLM"}, Type: "llama", GGUF: llamaGGUF("llama", true),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.setWindows(f, c.layerTypes(f, everyLayer(0, 0)), 0)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// mistralArch is Mistral 7B and its successors of that name.
func mistralArch() *Architecture {
	return &Architecture{
		Classes: []string{"MistralForCausalLM"}, Type: "mistral", GGUF: llamaGGUF("llama", true),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := slidingWindow(f, 4096)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}
