package decoder

// gptjArch is GPT-J (Wang and Komatsuzaki, 2021): attention and MLP in parallel
// behind one LayerNorm, rotation of neighbours in a part of each head.
func gptjArch() *Architecture {
	return &Architecture{
		Classes: []string{"GPTJForCausalLM"}, Type: "gptj",
		read: func(f *fields, c *Config) func(*builder) {
			f.otherwise("tie_word_embeddings", false)
			f.gptKeys("n_inner")
			c.readShape(f, 0, 0)
			c.BOS = within(c.BOS, c.Vocab)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			c.MLPBias = true
			dim := c.HeadDim
			if !f.null("rotary_dim") || f.absent("rotary_dim") {
				dim = f.int("rotary_dim", 64)
			}
			c.Rope = &Rope{Theta: 10000, Dim: dim, Interleaved: true}
			act := readActivation(f, "activation_function", "gelu_new")
			c.names = gptNames()
			c.names.positions = ""
			c.head = headSpec{norm: layerNorm, bias: true}
			return func(b *builder) {
				h := b.norm(stream, "ln_1", layerNorm)
				q := b.whole(b.linear(h, "attn.q_proj", c.QueryWidth(), false), c.HeadDim)
				k := b.whole(b.linear(h, "attn.k_proj", c.QueryWidth(), false), c.HeadDim)
				v := b.whole(b.linear(h, "attn.v_proj", c.QueryWidth(), false), c.HeadDim)
				u := b.linear(h, "mlp.fc_in", c.Intermediate, true)
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "attn.out_proj", false)
				b.addLinear(stream, b.activate(act, u), "mlp.fc_out", true)
			}
		},
	}
}
