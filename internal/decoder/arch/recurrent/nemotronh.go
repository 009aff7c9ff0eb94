package recurrent

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/mixture"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// nemotronHArch is Nemotron-H and Nemotron 3 (arXiv 2504.03624): blocks of one
// mixer each, which is Mamba-2, attention without rotation, an MLP or experts.
func nemotronHArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"NemotronHForCausalLM"}, Type: "nemotron_h",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			types := nemotronTypes(f)
			delete(f.Values, "num_hidden_layers")
			f.Otherwise("num_hidden_layers", len(types))
			f.Otherwise("intermediate_size", 21504)
			spec.ReadShape(c, f, 8, 128)
			c.NormEps = f.Float("layer_norm_epsilon", f.Float("rms_norm_eps", 1e-5))
			for key, other := range map[string]string{
				"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv", "time_step_min": "mamba_dt_min", "use_conv_bias": "mamba_conv_bias",
			} {
				f.Alias(key, other)
			}
			m := mamba2{
				heads: f.Size("mamba_num_heads", 128), dim: f.Size("mamba_head_dim", 64), groups: f.Size("n_groups", 8),
				state: f.Size("ssm_state_size", 128), conv: f.Size("conv_kernel", 4), bias: f.Bool("use_bias", false),
				convBias: f.Bool("use_conv_bias", true), norm: true, act: spec.ReadActivation(f, "mamba_hidden_act", "silu"),
			}
			// "time_step_limit" is read by nobody here.
			_, m.most = (&spec.Fields{}).Limits("")
			m.least = f.Float("time_step_min", 0.001)
			m.check(f, "mamba_num_heads", m.heads*m.dim)
			c.MLPBias = f.Bool("mlp_bias", false)
			n := nemotronH{mixer: m, act: spec.ReadActivation(f, "mlp_hidden_act", "relu2")}
			for _, t := range types {
				if t == "moe" && n.experts.Experts == 0 {
					n.readExperts(f, c)
				}
			}
			c.Names = backboneNames()
			return func(b *spec.Builder) { nemotronHBlock(b, types[b.Index], n) }
		},
	}
}

type nemotronH struct {
	mixer          mamba2
	act            program.Activation
	experts        mixture.DeepseekExperts
	shared, latent int // widths
}

func (n *nemotronH) readExperts(f *spec.Fields, c *decoder.Config) {
	n.experts = mixture.ReadDeepseekExperts(c, f, mixture.DeepseekExperts{Experts: 8, Top: 2, Shared: 1, Width: 7688, Factor: 1, Groups: 1, TopGroups: 1})
	n.experts.Router.Correction = "mixer.gate.e_score_correction_bias"
	n.shared = f.Size("moe_shared_expert_intermediate_size", 7688)
	n.latent = f.Int("moe_latent_size", 0)
	c.Beyond = 0
}

// nemotronTypes reads the kinds of blocks: a list, or letters in one word.
func nemotronTypes(f *spec.Fields) []string {
	types := f.Strs("layers_block_type")
	if types == nil {
		types = f.Strs("layer_types")
	}
	for i, t := range types {
		types[i] = layerAlias(t)
	}
	if types == nil {
		for _, letter := range f.Str("hybrid_override_pattern", "") {
			t, ok := map[rune]string{'M': linearAttention, '*': spec.FullAttention, '-': "mlp", 'E': "moe"}[letter]
			if !ok {
				f.Unsupported("hybrid_override_pattern", string(letter), "M, *, -, E")
			}
			types = append(types, t)
		}
	}
	if types == nil {
		f.Fail("layers_block_type", "missing")
	}
	checkTypes(f, "layers_block_type", types, linearAttention, spec.FullAttention, "mlp", "moe")
	return types
}

func nemotronHBlock(b *spec.Builder, kind string, n nemotronH) {
	c := b.Config
	h := b.Norm(program.Stream, "norm", program.Norm{})
	switch kind {
	case linearAttention:
		b.AddLinear(program.Stream, mixMamba2(b, h, "mixer.", n.mixer), "mixer.out_proj", n.mixer.bias)
	case spec.FullAttention:
		q := b.Whole(b.Linear(h, "mixer.q_proj", c.QueryWidth(), false), c.HeadDim)
		k := b.Whole(b.Linear(h, "mixer.k_proj", c.KVWidth(), false), c.HeadDim)
		v := b.Whole(b.Linear(h, "mixer.v_proj", c.KVWidth(), false), c.HeadDim)
		b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "mixer.o_proj", false)
	case "mlp":
		b.TwoLayerMLP(program.Stream, h, "mixer.up_proj", "mixer.down_proj", c.Intermediate, n.act, c.MLPBias)
	case "moe":
		nemotronHExperts(b, h, n)
	}
}

func nemotronHExperts(b *spec.Builder, h program.Reg, n nemotronH) {
	c := b.Config
	r := b.Route(h, "mixer.gate", n.experts.Router)
	x := h
	if n.latent > 0 {
		x = b.Linear(h, "mixer.fc1_latent_proj", n.latent, c.MLPBias)
	}
	y := b.Zeros(b.Width(x))
	for e := range c.Experts {
		up := b.Linear(b.Gather(x, r, e), fmt.Sprintf("mixer.experts.%d.up_proj", e), n.experts.Width, false)
		b.Scatter(y, b.Linear(b.Activate(n.act, up), fmt.Sprintf("mixer.experts.%d.down_proj", e), b.Width(x), false))
	}
	if n.latent > 0 {
		b.AddLinear(program.Stream, y, "mixer.fc2_latent_proj", c.MLPBias)
	} else {
		b.Add(program.Stream, y, 1)
	}
	b.TwoLayerMLP(program.Stream, h, "mixer.shared_experts.up_proj", "mixer.shared_experts.down_proj", n.shared, n.act, c.MLPBias)
}
