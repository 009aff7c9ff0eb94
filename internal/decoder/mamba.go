package decoder

// mambaArch is Mamba (Gu and Dao, arXiv 2312.00752): blocks of one mixer each, no
// attention.
func mambaArch() *Architecture {
	return &Architecture{
		Classes: []string{"MambaForCausalLM"}, Type: "mamba",
		read: func(f *fields, c *Config) func(*builder) { return readMamba(f, c, 0) },
	}
}

// falconMambaArch is Falcon Mamba (Zuo et al., arXiv 2410.05355): Mamba with norms
// of time step, B and C.
func falconMambaArch() *Architecture {
	return &Architecture{
		Classes: []string{"FalconMambaForCausalLM"}, Type: "falcon_mamba",
		read: func(f *fields, c *Config) func(*builder) {
			return readMamba(f, c, f.float("mixer_rms_eps", 1e-6))
		},
	}
}

func readMamba(f *fields, c *Config, eps float64) func(*builder) {
	f.alias("hidden_size", "d_model")
	f.alias("num_hidden_layers", "n_layer")
	f.expand("expand", 2)
	f.otherwise("tie_word_embeddings", true)
	c.readBody(f)
	c.NormEps = f.float("layer_norm_epsilon", 1e-5)
	m := mamba{
		inner: c.Intermediate, state: f.size("state_size", 16), conv: f.size("conv_kernel", 4), rank: (c.Hidden + 15) / 16,
		bias: f.bool("use_bias", false), convBias: f.bool("use_conv_bias", true), eps: eps,
		act: readActivation(f, "hidden_act", "silu"),
	}
	if !f.auto("time_step_rank") {
		m.rank = f.size("time_step_rank", m.rank)
	}
	c.names = backboneNames()
	return func(b *builder) {
		h := b.norm(stream, "norm", normSpec{})
		b.addLinear(stream, b.mixMamba(h, "mixer.", m), "mixer.out_proj", m.bias)
	}
}

// backboneNames are the names of tensors in Mamba and Nemotron-H.
func backboneNames() names {
	return names{
		embedding: "backbone.embeddings.weight", finalNorm: "backbone.norm_f.weight", head: "lm_head.weight",
		block: "backbone.layers.%d.",
	}
}

// mamba is a mixer of Mamba.
type mamba struct {
	inner, state, conv, rank int
	bias, convBias           bool
	eps                      float64 // of norms without gains of time step, B and C; 0: none
	gains                    bool    // norms of them with gains
	act                      activation
}

// mixMamba adds a mixer and returns what its output layer reads.
func (b *builder) mixMamba(h reg, path string, m mamba) reg {
	xz := b.linear(h, path+"in_proj", 2*m.inner, m.bias)
	u := b.conv(xz, 0, m.inner, m.conv, path+"conv1d", m.convBias, m.act)
	s := b.linear(u, path+"x_proj", m.rank+2*m.state, false)
	if m.eps > 0 || m.gains {
		at := 0
		for i, w := range []int{m.rank, m.state, m.state} {
			name := path + []string{"dt", "b", "c"}[i] + "_layernorm"
			b.headNorm(heads{reg: s, n: 1, dim: w, base: at}, name, normSpec{plain: !m.gains, eps: m.eps}, false)
			at += w
		}
	}
	dt := b.linear(b.columns(s, 0, m.rank), path+"dt_proj", m.inner, true)
	return b.selectiveScan(selectiveScan{
		u: u, dt: dt, bc: s, bAt: m.rank, cAt: m.rank + m.state, gate: xz, gateAt: m.inner,
		aLog: b.param(path+"A_log", m.inner, m.state), d: b.param(path+"D", m.inner),
	})
}

// mamba2Arch is Mamba-2 (Dao and Gu, arXiv 2405.21060).
func mamba2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Mamba2ForCausalLM"}, Type: "mamba2",
		read: func(f *fields, c *Config) func(*builder) {
			f.expand("expand", 2)
			c.readBody(f)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			m := mamba2{
				heads: f.size("num_heads", 128), dim: f.size("head_dim", 64), groups: f.size("n_groups", 8),
				state: f.size("state_size", 128), conv: f.size("conv_kernel", 4), bias: f.bool("use_bias", false),
				convBias: f.bool("use_conv_bias", true), norm: true, act: readActivation(f, "hidden_act", "silu"),
			}
			m.least, m.most = f.limits("time_step_limit")
			m.check(f, "num_heads", c.Intermediate)
			c.names = backboneNames()
			return func(b *builder) {
				h := b.norm(stream, "norm", normSpec{})
				b.addLinear(stream, b.mixMamba2(h, "mixer.", m), "mixer.out_proj", m.bias)
			}
		},
	}
}

// mamba2 is a mixer of Mamba-2.
type mamba2 struct {
	heads, dim, groups, state, conv int
	bias, convBias                  bool
	norm, normFirst                 bool    // a norm of the output, before the gate
	least, most                     float64 // bounds of the time step
	act                             activation
	factors                         []float64 // of z, x, B, C and the time step behind in_proj; nil: none
}

// check compares sizes with the width of the mixer.
func (m *mamba2) check(f *fields, key string, inner int) {
	switch {
	case f.err != nil:
	case m.heads*m.dim != inner:
		f.fail(key, "%d heads of %d, want %d together", m.heads, m.dim, inner)
	case m.heads%m.groups != 0:
		f.fail(key, "%d, want a multiple of the number of groups, %d", m.heads, m.groups)
	}
}

// mixMamba2 adds a mixer and returns what its output layer reads.
func (b *builder) mixMamba2(h reg, path string, m mamba2) reg {
	inner, shared := m.heads*m.dim, m.groups*m.state
	p := b.linear(h, path+"in_proj", 2*inner+2*shared+m.heads, m.bias)
	if m.factors != nil {
		b.scaleColumns(p, []int{inner, inner, shared, shared, m.heads}, m.factors)
	}
	x := b.conv(p, inner, inner+2*shared, m.conv, path+"conv1d", m.convBias, m.act)
	y := b.headScan(headScan{
		x: x, dt: p, dtAt: 2*inner + 2*shared, heads: m.heads, dim: m.dim, groups: m.groups, state: m.state,
		least: m.least, most: m.most,
		aLog: b.param(path+"A_log", m.heads), d: b.param(path+"D", m.heads), stepped: b.param(path+"dt_bias", m.heads),
	})
	yh := b.whole(y, inner/m.groups)
	z := yh
	z.reg = p
	if m.norm {
		b.gateNorm(yh, z, path+"norm", !m.normFirst, true)
	} else {
		b.gate(yh, z, silu)
	}
	return y
}
