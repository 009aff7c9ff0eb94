package decoder

import "fmt"

// nemotronHArch is Nemotron-H and Nemotron 3 (arXiv 2504.03624): blocks of one
// mixer each, which is Mamba-2, attention without rotation, an MLP or experts.
func nemotronHArch() *Architecture {
	return &Architecture{
		Classes: []string{"NemotronHForCausalLM"}, Type: "nemotron_h",
		read: func(f *fields, c *Config) func(*builder) {
			types := f.nemotronTypes()
			delete(f.values, "num_hidden_layers")
			f.otherwise("num_hidden_layers", len(types))
			f.otherwise("intermediate_size", 21504)
			c.readShape(f, 8, 128)
			c.NormEps = f.float("layer_norm_epsilon", f.float("rms_norm_eps", 1e-5))
			for key, other := range map[string]string{
				"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv", "time_step_min": "mamba_dt_min", "use_conv_bias": "mamba_conv_bias",
			} {
				f.alias(key, other)
			}
			m := mamba2{
				heads: f.size("mamba_num_heads", 128), dim: f.size("mamba_head_dim", 64), groups: f.size("n_groups", 8),
				state: f.size("ssm_state_size", 128), conv: f.size("conv_kernel", 4), bias: f.bool("use_bias", false),
				convBias: f.bool("use_conv_bias", true), norm: true, act: readActivation(f, "mamba_hidden_act", "silu"),
			}
			// "time_step_limit" is read by nobody here.
			_, m.most = (&fields{}).limits("")
			m.least = f.float("time_step_min", 0.001)
			m.check(f, "mamba_num_heads", m.heads*m.dim)
			c.MLPBias = f.bool("mlp_bias", false)
			n := nemotronH{mixer: m, act: readActivation(f, "mlp_hidden_act", "relu2")}
			for _, t := range types {
				if t == "moe" && n.experts.experts == 0 {
					n.readExperts(f, c)
				}
			}
			c.names = backboneNames()
			return func(b *builder) { b.nemotronHBlock(types[b.Index], n) }
		},
	}
}

type nemotronH struct {
	mixer          mamba2
	act            activation
	experts        deepseekExperts
	shared, latent int // widths
}

func (n *nemotronH) readExperts(f *fields, c *Config) {
	n.experts = c.readDeepseekExperts(f, deepseekExperts{experts: 8, top: 2, shared: 1, width: 7688, factor: 1, groups: 1, topGroups: 1})
	n.experts.router.correction = "mixer.gate.e_score_correction_bias"
	n.shared = f.size("moe_shared_expert_intermediate_size", 7688)
	n.latent = f.int("moe_latent_size", 0)
	c.beyond = 0
}

// nemotronTypes reads the kinds of blocks: a list, or letters in one word.
func (f *fields) nemotronTypes() []string {
	types := f.strs("layers_block_type")
	if types == nil {
		types = f.strs("layer_types")
	}
	for i, t := range types {
		types[i] = layerAlias(t)
	}
	if types == nil {
		for _, letter := range f.str("hybrid_override_pattern", "") {
			t, ok := map[rune]string{'M': linearAttention, '*': fullAttention, '-': "mlp", 'E': "moe"}[letter]
			if !ok {
				f.unsupported("hybrid_override_pattern", string(letter), "M, *, -, E")
			}
			types = append(types, t)
		}
	}
	if types == nil {
		f.fail("layers_block_type", "missing")
	}
	checkTypes(f, "layers_block_type", types, linearAttention, fullAttention, "mlp", "moe")
	return types
}

func (b *builder) nemotronHBlock(kind string, n nemotronH) {
	c := b.c
	h := b.norm(stream, "norm", normSpec{})
	switch kind {
	case linearAttention:
		b.addLinear(stream, b.mixMamba2(h, "mixer.", n.mixer), "mixer.out_proj", n.mixer.bias)
	case fullAttention:
		q := b.whole(b.linear(h, "mixer.q_proj", c.QueryWidth(), false), c.HeadDim)
		k := b.whole(b.linear(h, "mixer.k_proj", c.KVWidth(), false), c.HeadDim)
		v := b.whole(b.linear(h, "mixer.v_proj", c.KVWidth(), false), c.HeadDim)
		b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "mixer.o_proj", false)
	case "mlp":
		b.twoLayerMLP(stream, h, "mixer.up_proj", "mixer.down_proj", c.Intermediate, n.act, c.MLPBias)
	case "moe":
		b.nemotronHExperts(h, n)
	}
}

func (b *builder) nemotronHExperts(h reg, n nemotronH) {
	c := b.c
	r := b.route(h, "mixer.gate", n.experts.router)
	x := h
	if n.latent > 0 {
		x = b.linear(h, "mixer.fc1_latent_proj", n.latent, c.MLPBias)
	}
	y := b.zeros(b.width(x))
	for e := range c.Experts {
		up := b.linear(b.gather(x, r, e), fmt.Sprintf("mixer.experts.%d.up_proj", e), n.experts.width, false)
		b.scatter(y, b.linear(b.activate(n.act, up), fmt.Sprintf("mixer.experts.%d.down_proj", e), b.width(x), false))
	}
	if n.latent > 0 {
		b.addLinear(stream, y, "mixer.fc2_latent_proj", c.MLPBias)
	} else {
		b.add(stream, y, 1)
	}
	b.twoLayerMLP(stream, h, "mixer.shared_experts.up_proj", "mixer.shared_experts.down_proj", n.shared, n.act, c.MLPBias)
}
