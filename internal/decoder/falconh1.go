package decoder

// falconH1Arch is Falcon-H1 (Zuo et al., arXiv 2507.22448): attention and a mixer of
// Mamba-2 side by side, and factors at many places.
func falconH1Arch() *Architecture {
	return &Architecture{
		Classes: []string{"FalconH1ForCausalLM"}, Type: "falcon_h1",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias, c.MLPBias = c.QKVBias, f.bool("mlp_bias", false)
			c.Rope = c.readRope(f, fullAttention, 10000)
			inner := f.size("mamba_expand", 2) * c.Hidden
			if !f.null("mamba_d_ssm") || f.absent("mamba_d_ssm") {
				inner = f.size("mamba_d_ssm", 1024)
			}
			s := falconH1{
				out: f.bool("projectors_bias", false), act: readActivation(f, "hidden_act", "silu"),
				attnIn: f.float("attention_in_multiplier", 1), attnOut: f.float("attention_out_multiplier", 1),
				ssmIn: f.float("ssm_in_multiplier", 1), ssmOut: f.float("ssm_out_multiplier", 1),
				key: f.float("key_multiplier", 1), mlp: f.factors("mlp_multipliers", 2),
			}
			s.mixer = c.readMamba2(f, inner, 256)
			s.mixer.act = s.act
			s.mixer.norm, s.mixer.normFirst = f.bool("mamba_rms_norm", false), f.bool("mamba_norm_before_gate", true)
			s.mixer.factors = f.factors("ssm_multipliers", 5)
			c.embed.scale, c.head.scale = f.float("embedding_multiplier", 1), f.float("lm_head_multiplier", 1)
			c.names.finalNorm = "model.final_layernorm.weight"
			return func(b *builder) { b.falconH1Block(s) }
		},
	}
}

type falconH1 struct {
	mixer                               mamba2
	out                                 bool // bias of the mixer's output layer
	act                                 activation
	attnIn, attnOut, ssmIn, ssmOut, key float64
	mlp                                 []float64
}

// readMamba2 reads the keys that the hybrids have for mixers of Mamba-2; state is
// what an absent width of the state means.
func (c *Config) readMamba2(f *fields, inner, state int) mamba2 {
	m := mamba2{
		heads: f.size("mamba_n_heads", 128), groups: f.size("mamba_n_groups", 1), state: f.size("mamba_d_state", state),
		conv: f.size("mamba_d_conv", 4), bias: f.bool("mamba_proj_bias", false), convBias: f.bool("mamba_conv_bias", true), norm: true,
	}
	if m.dim = inner / m.heads; !f.auto("mamba_d_head") {
		m.dim = f.size("mamba_d_head", 1)
	}
	m.least, m.most = f.limits("time_step_limit")
	m.check(f, "mamba_n_heads", inner)
	return m
}

func (b *builder) falconH1Block(s falconH1) {
	c := b.c
	h := b.norm(stream, "input_layernorm", normSpec{})
	scaled := func(factor float64) reg {
		if factor == 1 {
			return h
		}
		r := b.copied(h)
		b.scale(r, factor)
		return r
	}
	m := b.linear(b.mixMamba2(scaled(s.ssmIn), "mamba.", s.mixer), "mamba.out_proj", c.Hidden, s.out)
	q, k, v := b.qkv(scaled(s.attnIn))
	b.scale(k.reg, s.key)
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	o := b.linear(b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", c.Hidden, c.OBias)
	b.scale(m, s.ssmOut)
	b.add(m, o, s.attnOut)
	b.add(stream, m, 1)

	h = b.norm(stream, "pre_ff_layernorm", normSpec{})
	gate := b.linear(h, "feed_forward.gate_proj", c.Intermediate, c.MLPBias)
	b.scale(gate, s.mlp[0])
	up := b.linear(h, "feed_forward.up_proj", c.Intermediate, c.MLPBias)
	b.add(stream, b.linear(b.gated(s.act, gate, up), "feed_forward.down_proj", c.Hidden, c.MLPBias), s.mlp[1])
}
