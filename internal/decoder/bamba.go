package decoder

import "slices"

// bambaArch is Bamba (IBM, 2024): mixers of Mamba-2, and attention in some layers.
func bambaArch() *Architecture {
	return &Architecture{
		Classes: []string{"BambaForCausalLM"}, Type: "bamba",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, f.bool("mlp_bias", false)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.5)
			full := f.ints("attn_layer_indices")
			m := c.readMamba2(f, f.size("mamba_expand", 2)*c.Hidden, 256)
			m.act = readActivation(f, "hidden_act", "silu")
			c.names.finalNorm = "model.final_layernorm.weight"
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				if slices.Contains(full, b.Index) {
					b.plainAttention(h)
				} else {
					b.addLinear(stream, b.mixMamba2(h, "mamba.", m), "mamba.out_proj", m.bias)
				}
				b.gatedMLP(stream, b.norm(stream, "pre_ff_layernorm", normSpec{}), "feed_forward.", m.act)
			}
		},
	}
}
