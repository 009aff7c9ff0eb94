package decoder

import "fmt"

// graniteMoEArch is Granite 3's mixture of experts: all experts of a block in two
// tensors, gate above up.
func graniteMoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"GraniteMoeForCausalLM"}, Type: "granitemoe",
		read: func(f *fields, c *Config) func(*builder) { return readGraniteMoE(f, c, 0) },
	}
}

// graniteMoESharedArch has an MLP for all tokens beside the experts.
func graniteMoESharedArch() *Architecture {
	return &Architecture{
		Classes: []string{"GraniteMoeSharedForCausalLM"}, Type: "granitemoeshared",
		read: func(f *fields, c *Config) func(*builder) {
			return readGraniteMoE(f, c, f.int("shared_intermediate_size", 0))
		},
	}
}

func readGraniteMoE(f *fields, c *Config, shared int) func(*builder) {
	c.readShape(f, 0, 0)
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = c.readRope(f, fullAttention, 10000)
	c.Experts = f.int("num_local_experts", 8)
	top := c.topExperts(f, "num_experts_per_tok", 2)
	m := c.readMultipliers(f)
	act := readActivation(f, "hidden_act", "silu")
	return func(b *builder) {
		h := b.norm(stream, "input_layernorm", normSpec{})
		b.graniteAttention(h, c.Rope, m)
		h = b.norm(stream, "post_attention_layernorm", normSpec{})
		b.graniteExperts(h, top, shared, act, m)
	}
}

// graniteExperts adds experts, and an MLP for all tokens if it has a width.
func (b *builder) graniteExperts(h reg, top, shared int, act activation, m multipliers) {
	c, width := b.c, b.c.Intermediate
	y := b.zeros(c.Hidden)
	if c.Experts > 0 {
		const moe = "block_sparse_moe."
		r := b.route(h, moe+"router.layer", routerSpec{experts: c.Experts, top: top, ofChosen: true})
		for e := range c.Experts {
			in := b.gather(h, r, e)
			part := func(path string, src reg, out int, s Slice) reg {
				dst := b.linear(src, fmt.Sprintf(moe+"experts.%d."+path, e), out, false)
				s.Experts, s.Expert = c.Experts, e
				b.sliced(s)
				return dst
			}
			gate := part("w1", in, width, Slice{Weight: moe + "input_linear.weight", Outputs: 2 * width})
			up := part("w3", in, width, Slice{Weight: moe + "input_linear.weight", Outputs: 2 * width, Output0: width})
			out := part("w2", b.gated(act, gate, up), c.Hidden, Slice{Weight: moe + "output_linear.weight", Outputs: c.Hidden})
			b.scatter(y, out)
		}
		b.add(stream, y, m.residual)
	}
	if shared > 0 {
		u := b.gatedHalves(act, b.linear(h, "shared_mlp.input_linear", 2*shared, false))
		b.add(stream, b.linear(u, "shared_mlp.output_linear", c.Hidden, false), m.residual)
	}
}
