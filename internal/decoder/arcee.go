package decoder

// arceeArch is Arcee's AFM: Llama's block with an MLP of squared ReLU.
func arceeArch() *Architecture {
	return &Architecture{
		Classes: []string{"ArceeForCausalLM"}, Type: "arcee", GGUF: arceeGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			act := readActivation(f, "hidden_act", "relu2")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.plainMLP(h, "mlp.up_proj", "mlp.down_proj", act)
			}
		},
	}
}

func arceeGGUF() *GGUF {
	g := llamaGGUF("arcee", true, attentionBias, mlpBias)
	g.Activation = GGUFActivation{Key: "hidden_act", Values: []string{"relu2"}}
	return g
}
