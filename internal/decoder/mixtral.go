package decoder

// mixtralArch is Mixtral (Jiang et al., arXiv 2401.04088): a softmax router in
// front of gated experts, two of them for each token.
func mixtralArch() *Architecture {
	return &Architecture{
		Classes: []string{"MixtralForCausalLM"}, Type: "mixtral", GGUF: mixtralGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.Rope = c.readRope(f, fullAttention, 1e6)
			w := slidingWindow(f, 0)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			c.Experts = f.int("num_local_experts", 8)
			top := c.topExperts(f, "num_experts_per_tok", 2)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				r := b.router(h, "block_sparse_moe.gate", c.Experts, top, true)
				const expert = "block_sparse_moe.experts.%d."
				y := b.experts(h, r, c.Experts, c.Intermediate, act, expertNames{expert + "w1", expert + "w3", expert + "w2"})
				b.add(stream, y, 1)
			}
		},
	}
}

// topExperts reads how many experts a token goes to.
func (c *Config) topExperts(f *fields, key string, missing int) int {
	top := f.int(key, missing)
	if f.err == nil && (top < 1 || top > c.Experts) {
		f.fail(key, "%d, want 1 to the number of experts, %d", top, c.Experts)
	}
	return top
}

// mixtralGGUF is Llama with experts.
func mixtralGGUF() *GGUF {
	return &GGUF{
		Name: "llama", Needs: "expert_count", RopeFreqs: true,
		Keys: []GGUFKey{{"expert_count", "num_local_experts"}, {"expert_used_count", "num_experts_per_tok"}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(true), []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), ggufExperts("block_sparse_moe.gate", wExperts)),
	}
}
