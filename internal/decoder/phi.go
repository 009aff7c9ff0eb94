package decoder

// phiArch is Phi-1, Phi-1.5 and Phi-2 (Gunasekar et al., arXiv 2306.11644):
// attention and MLP in parallel behind one LayerNorm, rotation of a part of each
// head, biases also in the head.
func phiArch() *Architecture {
	return &Architecture{
		Classes: []string{"PhiForCausalLM"}, Type: "phi", GGUF: phiGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("layer_norm_eps", 1e-5)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			c.QKNorm = f.bool("qk_layernorm", false)
			act := readActivation(f, "hidden_act", "gelu_new")
			c.names.finalNorm = "model.final_layernorm.weight"
			c.head = headSpec{norm: layerNorm, bias: true}
			return func(b *builder) { b.phiBlock(act) }
		},
	}
}

func (b *builder) phiBlock(act activation) {
	c := b.c
	h := b.norm(stream, "input_layernorm", layerNorm)
	q := b.whole(b.linear(h, "self_attn.q_proj", c.QueryWidth(), true), c.HeadDim)
	k := b.whole(b.linear(h, "self_attn.k_proj", c.KVWidth(), true), c.HeadDim)
	v := b.whole(b.linear(h, "self_attn.v_proj", c.KVWidth(), true), c.HeadDim)
	u := b.linear(h, "mlp.fc1", c.Intermediate, true)
	if c.QKNorm {
		b.headNorm(q, "self_attn.q_layernorm", layerNorm, false)
		b.headNorm(k, "self_attn.k_layernorm", layerNorm, false)
	}
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.dense", true)
	b.addLinear(stream, b.activate(act, u), "mlp.fc2", true)
}

func phiGGUF() *GGUF {
	return &GGUF{
		Name: "phi2", LayerNorm: true, OwnHead: true, Activation: geluActivation("hidden_act"), Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{
			{HF: "self_attn.dense", GGUF: "attn_output"}, {HF: "mlp.fc1", GGUF: "ffn_up"}, {HF: "mlp.fc2", GGUF: "ffn_down"},
		}),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"qk_layernorm": false}); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}
