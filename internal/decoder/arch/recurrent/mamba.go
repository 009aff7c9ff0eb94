package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// mambaArch is Mamba (Gu and Dao, arXiv 2312.00752): blocks of one mixer each, no
// attention.
func mambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MambaForCausalLM"}, Type: "mamba",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) { return readMamba(f, c, 0) },
	}
}

// falconMambaArch is Falcon Mamba (Zuo et al., arXiv 2410.05355): Mamba with norms
// of time step, B and C.
func falconMambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"FalconMambaForCausalLM"}, Type: "falcon_mamba",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			return readMamba(f, c, f.Float("mixer_rms_eps", 1e-6))
		},
	}
}

func readMamba(f *spec.Fields, c *decoder.Config, eps float64) func(*spec.Builder) {
	f.Alias("hidden_size", "d_model")
	f.Alias("num_hidden_layers", "n_layer")
	f.Expand("expand", 2)
	f.Otherwise("tie_word_embeddings", true)
	spec.ReadBody(c, f)
	c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
	m := mamba{
		inner: c.Intermediate, state: f.Size("state_size", 16), conv: f.Size("conv_kernel", 4), rank: (c.Hidden + 15) / 16,
		bias: f.Bool("use_bias", false), convBias: f.Bool("use_conv_bias", true), eps: eps,
		act: spec.ReadActivation(f, "hidden_act", "silu"),
	}
	if !f.Auto("time_step_rank") {
		m.rank = f.Size("time_step_rank", m.rank)
	}
	c.Names = backboneNames()
	return func(b *spec.Builder) {
		h := b.Norm(program.Stream, "norm", program.Norm{})
		b.AddLinear(program.Stream, mixMamba(b, h, "mixer.", m), "mixer.out_proj", m.bias)
	}
}

// backboneNames are the names of tensors in Mamba and Nemotron-H.
func backboneNames() decoder.Names {
	return decoder.Names{
		Embedding: "backbone.embeddings.weight", FinalNorm: "backbone.norm_f.weight", Head: "lm_head.weight",
		Block: "backbone.layers.%d.",
	}
}

// mamba is a mixer of Mamba.
type mamba struct {
	inner, state, conv, rank int
	bias, convBias           bool
	eps                      float64 // of norms without gains of time step, B and C; 0: none
	gains                    bool    // norms of them with gains
	act                      program.Activation
}

// mixMamba adds a mixer and returns what its output layer reads.
func mixMamba(b *spec.Builder, h program.Reg, path string, m mamba) program.Reg {
	xz := b.Linear(h, path+"in_proj", 2*m.inner, m.bias)
	u := b.Conv(xz, 0, m.inner, m.conv, path+"conv1d", m.convBias, m.act)
	s := b.Linear(u, path+"x_proj", m.rank+2*m.state, false)
	if m.eps > 0 || m.gains {
		at := 0
		for i, w := range []int{m.rank, m.state, m.state} {
			name := path + []string{"dt", "b", "c"}[i] + "_layernorm"
			b.HeadNorm(program.Heads{Reg: s, N: 1, Dim: w, Base: at}, name, program.Norm{Plain: !m.gains, Eps: m.eps}, false)
			at += w
		}
	}
	dt := b.Linear(b.Columns(s, 0, m.rank), path+"dt_proj", m.inner, true)
	return b.SelectiveScan(program.SelectiveScan{
		U: u, DT: dt, BC: s, BAt: m.rank, CAt: m.rank + m.state, Gate: xz, GateAt: m.inner,
		ALog: b.Param(path+"A_log", m.inner, m.state), D: b.Param(path+"D", m.inner),
	})
}

// mamba2Arch is Mamba-2 (Dao and Gu, arXiv 2405.21060).
func mamba2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Mamba2ForCausalLM"}, Type: "mamba2",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Expand("expand", 2)
			spec.ReadBody(c, f)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			m := mamba2{
				heads: f.Size("num_heads", 128), dim: f.Size("head_dim", 64), groups: f.Size("n_groups", 8),
				state: f.Size("state_size", 128), conv: f.Size("conv_kernel", 4), bias: f.Bool("use_bias", false),
				convBias: f.Bool("use_conv_bias", true), norm: true, act: spec.ReadActivation(f, "hidden_act", "silu"),
			}
			m.least, m.most = f.Limits("time_step_limit")
			m.check(f, "num_heads", c.Intermediate)
			c.Names = backboneNames()
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "norm", program.Norm{})
				b.AddLinear(program.Stream, mixMamba2(b, h, "mixer.", m), "mixer.out_proj", m.bias)
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
	act                             program.Activation
	factors                         []float64 // of z, x, B, C and the time step behind in_proj; nil: none
}

// check compares sizes with the width of the mixer.
func (m *mamba2) check(f *spec.Fields, key string, inner int) {
	switch {
	case f.Err != nil:
	case m.heads*m.dim != inner:
		f.Fail(key, "%d heads of %d, want %d together", m.heads, m.dim, inner)
	case m.heads%m.groups != 0:
		f.Fail(key, "%d, want a multiple of the number of groups, %d", m.heads, m.groups)
	}
}

// mixMamba2 adds a mixer and returns what its output layer reads.
func mixMamba2(b *spec.Builder, h program.Reg, path string, m mamba2) program.Reg {
	inner, shared := m.heads*m.dim, m.groups*m.state
	p := b.Linear(h, path+"in_proj", 2*inner+2*shared+m.heads, m.bias)
	if m.factors != nil {
		b.ScaleColumns(p, []int{inner, inner, shared, shared, m.heads}, m.factors)
	}
	x := b.Conv(p, inner, inner+2*shared, m.conv, path+"conv1d", m.convBias, m.act)
	y := b.HeadScan(program.HeadScan{
		X: x, DT: p, DtAt: 2*inner + 2*shared, Heads: m.heads, Dim: m.dim, Groups: m.groups, State: m.state,
		Least: m.least, Most: m.most,
		ALog: b.Param(path+"A_log", m.heads), D: b.Param(path+"D", m.heads), Stepped: b.Param(path+"dt_bias", m.heads),
	})
	yh := b.Whole(y, inner/m.groups)
	z := yh
	z.Reg = p
	if m.norm {
		b.GateNorm(yh, z, path+"norm", !m.normFirst, true)
	} else {
		b.Gate(yh, z, program.SiLU)
	}
	return y
}
