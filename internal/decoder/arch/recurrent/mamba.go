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
		Classes: []string{"MambaForCausalLM"}, Type: "mamba", GGUF: mambaGGUF(false),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) { return readMamba(f, c, 0) },
	}
}

// falconMambaArch is Falcon Mamba (Zuo et al., arXiv 2410.05355): Mamba with norms
// of time step, B and C.
func falconMambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"FalconMambaForCausalLM"}, Type: "falcon_mamba", GGUF: mambaGGUF(true),
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
	f.Note("intermediate_size", m.inner)
	f.Note("time_step_rank", m.rank)
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
		Classes: []string{"Mamba2ForCausalLM"}, Type: "mamba2", GGUF: mamba2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Expand("expand", 2)
			spec.ReadBody(c, f)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			f.Note("intermediate_size", c.Intermediate)
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

// convNames are those of a convolution, without the dimension of 1 in between.
func convNames(hf, gguf string, dims func(m *decoder.Model) []int) []decoder.GGUFName {
	return []decoder.GGUFName{
		{HF: hf + ".weight", GGUF: gguf + ".weight", Whole: true, Dims: dims}, {HF: hf + ".bias", GGUF: gguf + ".bias", Whole: true},
	}
}

// mambaGGUF: norms says that time step, B and C have norms, with the epsilon of the
// others.
func mambaGGUF(norms bool) *decoder.GGUF {
	inner := func(key string) func(m *decoder.Model) []int {
		return func(m *decoder.Model) []int { return []int{int(m.Number(key)), m.Intermediate} }
	}
	g := mambaSizes("mamba")
	g.Keys = append(g.Keys, decoder.GGUFKey{Name: "ssm.time_step_rank", Config: "time_step_rank"})
	g.Fixed = []decoder.GGUFFixed{{Name: "ssm.dt_b_c_rms", Value: norms}}
	g.Block = spec.Joined(spec.GGUFNorm("norm", "attn_norm"), spec.GGUFNorm("mixer.in_proj", "ssm_in"),
		convNames("mixer.conv1d", "ssm_conv1d", inner("conv_kernel")), []decoder.GGUFName{
			{HF: "mixer.x_proj", GGUF: "ssm_x"}, {HF: "mixer.dt_proj", GGUF: "ssm_dt"},
			{HF: "mixer.A_log", GGUF: "ssm_a", Whole: true, NegExp: true, Dims: inner("state_size")},
			{HF: "mixer.D", GGUF: "ssm_d", Whole: true}, {HF: "mixer.out_proj", GGUF: "ssm_out"},
		})
	if !norms {
		return g
	}
	g.Needs = g.Fixed[0].Name
	g.Keys = append(g.Keys, decoder.GGUFKey{Name: "attention.layer_norm_rms_epsilon", Config: "mixer_rms_eps", Read: true})
	check := g.Check
	g.Check = func(m *decoder.Model) error {
		if eps := m.Number("mixer_rms_eps"); eps != m.NormEps {
			return decoder.Refuse("mixer_rms_eps", eps, g.Name)
		}
		return check(m)
	}
	return g
}

// mambaSizes are what files of Mamba and Mamba-2 share.
func mambaSizes(name string) *decoder.GGUF {
	return &decoder.GGUF{
		Name: name, Unrotated: true, Headless: true, Context: 1 << 20,
		Rename: map[string]string{"rms_norm_eps": "layer_norm_epsilon", "max_position_embeddings": ""},
		Keys: []decoder.GGUFKey{
			{Name: "ssm.inner_size", Config: "intermediate_size"}, {Name: "ssm.conv_kernel", Config: "conv_kernel"},
			{Name: "ssm.state_size", Config: "state_size"},
		},
		Constants: map[string]any{"use_bias": false, "use_conv_bias": true},
		Check: func(m *decoder.Model) error {
			return m.Require(map[string]any{"use_bias": false, "use_conv_bias": true, "expand": 2.0})
		},
	}
}

// mamba2Keys are the keys of config.json that have the sizes of mixers of Mamba-2.
type mamba2Keys struct{ heads, groups, state, conv string }

// names are those of the tensors of a mixer of some width: vectors of heads are
// columns, the norm has a row for each group.
func (k mamba2Keys) names(path string, inner func(m *decoder.Model) int) []decoder.GGUFName {
	size := func(m *decoder.Model, key string) int { return int(m.Number(key)) }
	column := func(m *decoder.Model) []int { return []int{1, size(m, k.heads)} }
	groups := func(m *decoder.Model) []int {
		n := size(m, k.groups)
		return []int{inner(m) / n, n}
	}
	conv := func(m *decoder.Model) []int {
		return []int{size(m, k.conv), inner(m) + 2*size(m, k.groups)*size(m, k.state)}
	}
	return spec.Joined(spec.GGUFNorm(path+"in_proj", "ssm_in"), convNames(path+"conv1d", "ssm_conv1d", conv), []decoder.GGUFName{
		{HF: path + "A_log", GGUF: "ssm_a", Whole: true, NegExp: true, Dims: column}, {HF: path + "D", GGUF: "ssm_d", Whole: true, Dims: column},
		{HF: path + "dt_bias", GGUF: "ssm_dt.bias", Whole: true}, {HF: path + "norm.weight", GGUF: "ssm_norm.weight", Whole: true, Dims: groups},
		{HF: path + "out_proj", GGUF: "ssm_out"},
	})
}

func mamba2GGUF() *decoder.GGUF {
	g := mambaSizes("mamba2")
	g.Keys = append(g.Keys, decoder.GGUFKey{Name: "ssm.time_step_rank", Config: "num_heads"}, decoder.GGUFKey{Name: "ssm.group_count", Config: "n_groups"})
	g.Derive = func(number func(string) int) map[string]any {
		return map[string]any{"head_dim": number("ssm.inner_size") / number("ssm.time_step_rank")}
	}
	keys := mamba2Keys{heads: "num_heads", groups: "n_groups", state: "state_size", conv: "conv_kernel"}
	g.Block = spec.Joined(spec.GGUFNorm("norm", "attn_norm"), keys.names("mixer.", func(m *decoder.Model) int { return m.Intermediate }))
	check := g.Check
	g.Check = func(m *decoder.Model) error {
		if err := m.Require(map[string]any{"time_step_limit": ""}); err != nil {
			return err
		}
		return check(m)
	}
	return g
}
