package decoder

// qwen2Arch is Qwen2 and Qwen2.5: biases of q, k and v.
func qwen2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen2ForCausalLM"}, Type: "qwen2", GGUF: llamaGGUF("qwen2", false),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 32, 0)
			c.QKVBias = true
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.qwenWindows(f)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// qwen3Arch is Qwen3: norms of q and k.
func qwen3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3ForCausalLM"}, Type: "qwen3", GGUF: llamaGGUF("qwen3", false),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 32, 128)
			c.QKNorm = true
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.qwenWindows(f)
			return plainBlock(readActivation(f, "hidden_act", "silu"))
		},
	}
}

// qwenWindows reads windows that begin at a layer.
func (c *Config) qwenWindows(f *fields) {
	w := 0
	if f.bool("use_sliding_window", false) {
		w = slidingWindow(f, 4096)
	}
	c.setWindows(f, c.layerTypes(f, everyLayer(w, f.int("max_window_layers", 28))), w)
}
