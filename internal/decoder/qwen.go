package decoder

// qwen2Arch is Qwen2 and Qwen2.5: biases of q, k and v.
func qwen2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen2ForCausalLM"}, Type: "qwen2", GGUF: qwen2GGUF(),
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
		Classes: []string{"Qwen3ForCausalLM"}, Type: "qwen3", GGUF: qwen3GGUF(),
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

// qwen3GGUF has no bias of the output of attention.
func qwen3GGUF() *GGUF {
	g := llamaGGUF("qwen3", false, attentionBias)
	g.Check = func(m *Model) error { return m.require(map[string]any{"attention_bias": false}) }
	return g
}

// qwen2GGUF: in the engine the heads are as wide together as the stream.
func qwen2GGUF() *GGUF {
	g := llamaGGUF("qwen2", false)
	g.Check = (*Model).requireHidden
	return g
}
