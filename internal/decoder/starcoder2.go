package decoder

// starcoder2Arch is StarCoder 2 (arXiv 2402.19173): LayerNorms and biases
// everywhere, an MLP without gate, a window.
func starcoder2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Starcoder2ForCausalLM"}, Type: "starcoder2", GGUF: starcoder2GGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 2, 0)
			c.NormEps = f.float("norm_epsilon", 1e-5)
			c.Tied = f.bool("tie_word_embeddings", true)
			c.QKVBias = f.bool("use_bias", true)
			c.OBias, c.MLPBias = c.QKVBias, c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := f.int("sliding_window", 0)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			norm := normSpec{layer: true, bias: true}
			c.head.norm = norm
			act := readActivation(f, "hidden_act", "gelu_pytorch_tanh")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", norm)
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", norm)
				b.plainMLP(h, "mlp.c_fc", "mlp.c_proj", act)
			}
		},
	}
}

// starcoder2GGUF: the engine has no windows and wants the biases.
func starcoder2GGUF() *GGUF {
	return &GGUF{
		Name: "starcoder2", LayerNorm: true, Activation: geluActivation("hidden_act"), Rename: map[string]string{"rms_norm_eps": "norm_epsilon"},
		Constants: map[string]any{"sliding_window": nil},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), []GGUFName{{HF: "mlp.c_fc", GGUF: "ffn_up"}, {HF: "mlp.c_proj", GGUF: "ffn_down"}}),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"use_bias": true}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}
