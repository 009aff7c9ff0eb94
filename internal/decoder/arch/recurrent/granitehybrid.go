package recurrent

import (
	"strings"

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
		Classes: []string{"GraniteMoeHybridForCausalLM"}, Type: "granitemoehybrid", GGUF: graniteHybridGGUF(),
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

// graniteHybridGGUF: without experts the MLP for all tokens is the only one, as
// wide as experts are said to be.
func graniteHybridGGUF() *decoder.GGUF {
	const experts, shared = "num_local_experts", "shared_intermediate_size"
	keys := mamba2Keys{heads: "mamba_n_heads", groups: "mamba_n_groups", state: "mamba_d_state", conv: "mamba_d_conv"}
	g := &decoder.GGUF{
		Name: "granitehybrid", RopeFreqs: true, Other: linearAttention,
		Keys: append(dense.GraniteKeys(), []decoder.GGUFKey{
			{Name: "ssm.inner_size", Config: "mamba_expand", Times: "hidden_size"}, {Name: "ssm.conv_kernel", Config: keys.conv},
			{Name: "ssm.state_size", Config: keys.state}, {Name: "ssm.time_step_rank", Config: keys.heads}, {Name: "ssm.group_count", Config: keys.groups},
			{Name: "expert_count", Config: experts, Zero: true}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
			{Name: "expert_shared_feed_forward_length", Config: shared}, {Name: "rope.scaling.finetuned", Config: "position_embedding_type", True: "rope"},
		}...),
		Constants: map[string]any{"attention_bias": false, "mamba_proj_bias": false, "mamba_conv_bias": true},
		Derive: func(number func(string) int) map[string]any {
			return map[string]any{"mamba_expand": number("ssm.inner_size") / number("embedding_length")}
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(true), []decoder.GGUFName{spec.GGUFOutput},
			keys.names("mamba.", func(m *decoder.Model) int { return int(m.Number("mamba_expand")) * m.Hidden }),
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), mixture.GraniteNames()),
	}
	for _, n := range mixture.GraniteSharedNames() {
		alone := n
		alone.GGUF = strings.TrimSuffix(n.GGUF, "_shexp")
		n.If = func(m *decoder.Model) bool { return m.Experts > 0 }
		alone.If = func(m *decoder.Model) bool { return m.Experts == 0 }
		g.Block = append(g.Block, n, alone)
	}
	g.Check = func(m *decoder.Model) error {
		if m.Experts == 0 && int(m.Number(shared)) != m.Intermediate {
			return decoder.Refuse(shared, m.Number(shared), g.Name)
		}
		return m.Require(map[string]any{"attention_bias": false, "mamba_proj_bias": false, "mamba_conv_bias": true, "time_step_limit": ""})
	}
	return g
}
