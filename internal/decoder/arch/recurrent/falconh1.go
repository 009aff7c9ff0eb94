package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// falconH1Arch is Falcon-H1 (Zuo et al., arXiv 2507.22448): attention and a mixer of
// Mamba-2 side by side, and factors at many places.
func falconH1Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"FalconH1ForCausalLM"}, Type: "falcon_h1",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			inner := f.Size("mamba_expand", 2) * c.Hidden
			if !f.Null("mamba_d_ssm") || f.Absent("mamba_d_ssm") {
				inner = f.Size("mamba_d_ssm", 1024)
			}
			s := falconH1{
				out: f.Bool("projectors_bias", false), act: spec.ReadActivation(f, "hidden_act", "silu"),
				attnIn: f.Float("attention_in_multiplier", 1), attnOut: f.Float("attention_out_multiplier", 1),
				ssmIn: f.Float("ssm_in_multiplier", 1), ssmOut: f.Float("ssm_out_multiplier", 1),
				key: f.Float("key_multiplier", 1), mlp: f.Factors("mlp_multipliers", 2),
			}
			s.mixer = readMamba2(c, f, inner, 256)
			s.mixer.act = s.act
			s.mixer.norm, s.mixer.normFirst = f.Bool("mamba_rms_norm", false), f.Bool("mamba_norm_before_gate", true)
			s.mixer.factors = f.Factors("ssm_multipliers", 5)
			c.Embed.Scale, c.Head.Scale = f.Float("embedding_multiplier", 1), f.Float("lm_head_multiplier", 1)
			c.Names.FinalNorm = "model.final_layernorm.weight"
			return func(b *spec.Builder) { falconH1Block(b, s) }
		},
	}
}

type falconH1 struct {
	mixer                               mamba2
	out                                 bool // bias of the mixer's output layer
	act                                 program.Activation
	attnIn, attnOut, ssmIn, ssmOut, key float64
	mlp                                 []float64
}

// readMamba2 reads the keys that the hybrids have for mixers of Mamba-2; state is
// what an absent width of the state means.
func readMamba2(c *decoder.Config, f *spec.Fields, inner, state int) mamba2 {
	m := mamba2{
		heads: f.Size("mamba_n_heads", 128), groups: f.Size("mamba_n_groups", 1), state: f.Size("mamba_d_state", state),
		conv: f.Size("mamba_d_conv", 4), bias: f.Bool("mamba_proj_bias", false), convBias: f.Bool("mamba_conv_bias", true), norm: true,
	}
	if m.dim = inner / m.heads; !f.Auto("mamba_d_head") {
		m.dim = f.Size("mamba_d_head", 1)
	}
	m.least, m.most = f.Limits("time_step_limit")
	m.check(f, "mamba_n_heads", inner)
	return m
}

func falconH1Block(b *spec.Builder, s falconH1) {
	c := b.Config
	h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
	scaled := func(factor float64) program.Reg {
		if factor == 1 {
			return h
		}
		r := b.Copied(h)
		b.Scale(r, factor)
		return r
	}
	m := b.Linear(mixMamba2(b, scaled(s.ssmIn), "mamba.", s.mixer), "mamba.out_proj", c.Hidden, s.out)
	q, k, v := b.QKV(scaled(s.attnIn))
	b.Scale(k.Reg, s.key)
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	o := b.Linear(b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", c.Hidden, c.OBias)
	b.Scale(m, s.ssmOut)
	b.Add(m, o, s.attnOut)
	b.Add(program.Stream, m, 1)

	h = b.Norm(program.Stream, "pre_ff_layernorm", program.Norm{})
	gate := b.Linear(h, "feed_forward.gate_proj", c.Intermediate, c.MLPBias)
	b.Scale(gate, s.mlp[0])
	up := b.Linear(h, "feed_forward.up_proj", c.Intermediate, c.MLPBias)
	b.Add(program.Stream, b.Linear(b.Gated(s.act, gate, up), "feed_forward.down_proj", c.Hidden, c.MLPBias), s.mlp[1])
}
