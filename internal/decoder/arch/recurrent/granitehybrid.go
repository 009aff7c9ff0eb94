package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/mixture"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// graniteHybridArch is Granite 4: mixers of Mamba-2 and attention, experts and an
// MLP for all tokens.
func graniteHybridArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GraniteMoeHybridForCausalLM"}, Type: "granitemoehybrid",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			if f.Str("position_embedding_type", "") == "rope" {
				c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			}
			c.Experts = f.Int("num_local_experts", 8)
			top := 0
			if c.Experts > 0 {
				top = spec.TopExperts(c, f, "num_experts_per_tok", 2)
			}
			types := spec.LayerTypes(c, f, func(int) string { return linearAttention })
			for i, t := range types {
				types[i] = layerAlias(t)
			}
			checkTypes(f, "layer_types", types, linearAttention, spec.FullAttention)
			shared := f.Size("shared_intermediate_size", 1024)
			s := readMamba2(c, f, f.Size("mamba_expand", 2)*c.Hidden, 256)
			m := dense.ReadMultipliers(c, f)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			s.act = act
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				if types[b.Index] == linearAttention {
					o := b.Linear(mixMamba2(b, h, "mamba.", s), "mamba.out_proj", c.Hidden, s.bias)
					b.Add(program.Stream, o, m.Residual)
				} else {
					dense.GraniteAttention(b, h, c.Rope, m)
				}
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				mixture.GraniteExperts(b, h, top, shared, act, m)
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
		return spec.FullAttention
	}
	return t
}
