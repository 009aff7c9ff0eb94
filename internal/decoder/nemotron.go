package decoder

// nemotronArch is Nemotron-4 and Minitron (arXiv 2402.16819): LayerNorms with
// gains of 1+w, half of each head rotated, an MLP of squared ReLU.
func nemotronArch() *Architecture {
	return &Architecture{
		Classes: []string{"NemotronForCausalLM"}, Type: "nemotron", GGUF: nemotronGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.MLPBias = f.bool("mlp_bias", false)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.5)
			norm := normSpec{layer: true, plusOne: true, bias: true}
			c.head.norm = norm
			act := readActivation(f, "hidden_act", "relu2")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", norm)
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", norm)
				b.plainMLP(h, "mlp.up_proj", "mlp.down_proj", act)
			}
		},
	}
}

// plainMLP adds an MLP of Intermediate without a gate to the residual stream.
func (b *builder) plainMLP(h reg, up, down string, act activation) {
	c := b.c
	y := b.activate(act, b.linear(h, up, c.Intermediate, c.MLPBias))
	b.addLinear(stream, y, down, c.MLPBias)
}

func nemotronGGUF() *GGUF {
	return &GGUF{
		Name: "nemotron", LayerNorm: true, OwnHead: true, Activation: GGUFActivation{Key: "hidden_act", Values: []string{"relu2"}},
		Rename: map[string]string{"rms_norm_eps": "norm_eps"}, Flags: []GGUFFlag{attentionBias, mlpBias},
		Block: joined(ggufGain("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufGain("post_attention_layernorm", "ffn_norm"), []GGUFName{{HF: "mlp.up_proj", GGUF: "ffn_up"}, {HF: "mlp.down_proj", GGUF: "ffn_down"}}),
		Check: (*Model).requireHidden,
	}
}
