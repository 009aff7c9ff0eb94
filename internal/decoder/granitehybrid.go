package decoder

// graniteHybridArch is Granite 4: mixers of Mamba-2 and attention, experts and an
// MLP for all tokens.
func graniteHybridArch() *Architecture {
	return &Architecture{
		Classes: []string{"GraniteMoeHybridForCausalLM"}, Type: "granitemoehybrid",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			if f.str("position_embedding_type", "") == "rope" {
				c.Rope = c.readRope(f, fullAttention, 10000)
			}
			c.Experts = f.int("num_local_experts", 8)
			top := 0
			if c.Experts > 0 {
				top = c.topExperts(f, "num_experts_per_tok", 2)
			}
			types := c.layerTypes(f, func(int) string { return linearAttention })
			for i, t := range types {
				types[i] = layerAlias(t)
			}
			checkTypes(f, "layer_types", types, linearAttention, fullAttention)
			shared := f.size("shared_intermediate_size", 1024)
			s := c.readMamba2(f, f.size("mamba_expand", 2)*c.Hidden, 256)
			m := c.readMultipliers(f)
			act := readActivation(f, "hidden_act", "silu")
			s.act = act
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				if types[b.Index] == linearAttention {
					o := b.linear(b.mixMamba2(h, "mamba.", s), "mamba.out_proj", c.Hidden, s.bias)
					b.add(stream, o, m.residual)
				} else {
					b.graniteAttention(h, c.Rope, m)
				}
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.graniteExperts(h, top, shared, act, m)
			}
		},
	}
}

// layerAlias is the newer name of a kind of layer.
func layerAlias(t string) string {
	switch t {
	case "mamba":
		return linearAttention
	case "attention":
		return fullAttention
	}
	return t
}
