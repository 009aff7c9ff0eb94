package decoder

// dots1Arch is dots.llm1 (arXiv 2506.05767): norms of q and k, and the experts of
// DeepSeek-V3.
func dots1Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Dots1ForCausalLM"}, Type: "dots1",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 32, 0)
			c.QKNorm = true
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			w := slidingWindow(f, 4096)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, f.int("max_window_layers", 62))), w)
			s := c.readDeepseekExperts(f, deepseekExperts{experts: 128, top: 6, shared: 2, width: 1408, factor: 1, groups: 1, topGroups: 1})
			s.router.renormalize = f.bool("norm_topk_prob", false)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.deepseekMLP(h, s, act)
			}
		},
	}
}
