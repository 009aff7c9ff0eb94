package mixture

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// graniteMoEArch is Granite 3's mixture of experts: all experts of a block in two
// tensors, gate above up.
func graniteMoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GraniteMoeForCausalLM"}, Type: "granitemoe", GGUF: graniteMoEGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) { return readGraniteMoE(f, c, 0) },
	}
}

// graniteMoESharedArch has an MLP for all tokens beside the experts.
func graniteMoESharedArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GraniteMoeSharedForCausalLM"}, Type: "granitemoeshared", GGUF: graniteMoESharedGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			return readGraniteMoE(f, c, f.Int("shared_intermediate_size", 0))
		},
	}
}

func readGraniteMoE(f *spec.Fields, c *decoder.Config, shared int) func(*spec.Builder) {
	spec.ReadShape(c, f, 0, 0)
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
	c.Experts = f.Int("num_local_experts", 8)
	top := spec.TopExperts(c, f, "num_experts_per_tok", 2)
	m := dense.ReadMultipliers(c, f)
	act := spec.ReadActivation(f, "hidden_act", "silu")
	return func(b *spec.Builder) {
		h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
		dense.GraniteAttention(b, h, c.Rope, m)
		h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
		GraniteExperts(b, h, top, shared, act, m)
	}
}

// GraniteExperts adds experts, and an MLP for all tokens if it has a width.
func GraniteExperts(b *spec.Builder, h program.Reg, top, shared int, act program.Activation, m dense.Multipliers) {
	c, width := b.Config, b.Config.Intermediate
	y := b.Zeros(c.Hidden)
	if c.Experts > 0 {
		const moe = "block_sparse_moe."
		r := b.Route(h, moe+"router.layer", program.Router{Experts: c.Experts, Top: top, OfChosen: true})
		for e := range c.Experts {
			in := b.Gather(h, r, e)
			part := func(path string, src program.Reg, out int, s program.Slice) program.Reg {
				dst := b.Linear(src, fmt.Sprintf(moe+"experts.%d."+path, e), out, false)
				s.Experts, s.Expert = c.Experts, e
				b.Sliced(s)
				return dst
			}
			gate := part("w1", in, width, program.Slice{Weight: moe + "input_linear.weight", Outputs: 2 * width})
			up := part("w3", in, width, program.Slice{Weight: moe + "input_linear.weight", Outputs: 2 * width, Output0: width})
			out := part("w2", b.Gated(act, gate, up), c.Hidden, program.Slice{Weight: moe + "output_linear.weight", Outputs: c.Hidden})
			b.Scatter(y, out)
		}
		b.Add(program.Stream, y, m.Residual)
	}
	if shared > 0 {
		u := b.GatedHalves(act, b.Linear(h, "shared_mlp.input_linear", 2*shared, false))
		b.Add(program.Stream, b.Linear(u, "shared_mlp.output_linear", c.Hidden, false), m.Residual)
	}
}

// graniteMoEGGUF: gate and up of each expert apart.
func graniteMoEGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "granitemoe", RopeFreqs: true, Flags: []decoder.GGUFFlag{spec.AttentionBias},
		Keys: append(dense.GraniteKeys(), decoder.GGUFKey{Name: "expert_count", Config: "num_local_experts"},
			decoder.GGUFKey{Name: "expert_used_count", Config: "num_experts_per_tok"}),
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(true), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), GraniteNames()),
	}
}

// graniteMoESharedGGUF has an MLP for all tokens, its gate and up apart.
func graniteMoESharedGGUF() *decoder.GGUF {
	g := graniteMoEGGUF()
	g.Needs = "expert_shared_feed_forward_length"
	g.Keys = append(g.Keys, decoder.GGUFKey{Name: g.Needs, Config: "shared_intermediate_size"})
	g.Block = append(g.Block, GraniteSharedNames()...)
	return g
}

// GraniteNames are the names of the experts of the Granite family.
func GraniteNames() []decoder.GGUFName {
	return spec.GGUFExperts("block_sparse_moe.router.layer", spec.WExperts)
}

// GraniteSharedNames are those of the MLP for all tokens.
func GraniteSharedNames() []decoder.GGUFName {
	return []decoder.GGUFName{
		{HF: "shared_mlp.input_linear", GGUF: "ffn_gate_shexp", Bands: 2}, {HF: "shared_mlp.input_linear", GGUF: "ffn_up_shexp", Band: 1, Bands: 2},
		{HF: "shared_mlp.output_linear", GGUF: "ffn_down_shexp"},
	}
}
