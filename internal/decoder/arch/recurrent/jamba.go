package recurrent

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

var jambaExperts = program.ExpertNames{
	Gate: "feed_forward.experts.%d.gate_proj", Up: "feed_forward.experts.%d.up_proj", Down: "feed_forward.experts.%d.down_proj",
}

// jambaArch is Jamba (Lieber et al., arXiv 2403.19887): mixers of Mamba, attention
// without rotation in some layers, experts in others.
func jambaArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"JambaForCausalLM"}, Type: "jamba", GGUF: jambaGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			m := mamba{
				inner: f.Size("mamba_expand", 2) * c.Hidden, state: f.Size("mamba_d_state", 16), conv: f.Size("mamba_d_conv", 4),
				rank: (c.Hidden + 15) / 16, bias: f.Bool("mamba_proj_bias", false), convBias: f.Bool("mamba_conv_bias", true),
				gains: true, act: spec.ReadActivation(f, "hidden_act", "silu"),
			}
			if !f.Auto("mamba_dt_rank") {
				m.rank = f.Size("mamba_dt_rank", m.rank)
			}
			f.Note("mamba_dt_rank", m.rank)
			attnStep, attnFirst := f.Size("attn_layer_period", 8), f.Int("attn_layer_offset", 4)
			step, first := f.Size("expert_layer_period", 2), f.Int("expert_layer_offset", 1)
			c.Experts = f.Int("num_experts", 16)
			top := 1
			if c.Experts > 1 {
				top = spec.TopExperts(c, f, "num_experts_per_tok", 2)
			}
			c.Names.FinalNorm = "model.final_layernorm.weight"
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				if b.Index%attnStep == attnFirst {
					q, k, v := b.QKV(h)
					b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", false)
				} else {
					b.AddLinear(program.Stream, mixMamba(b, h, "mamba.", m), "mamba.out_proj", m.bias)
				}
				h = b.Norm(program.Stream, "pre_ff_layernorm", program.Norm{})
				if c.Experts > 1 && b.Index%step == first {
					r := b.Router(h, "feed_forward.router", c.Experts, top, false)
					b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, m.act, jambaExperts), 1)
				} else {
					b.GatedMLP(program.Stream, h, "feed_forward.", m.act)
				}
			}
		},
	}
}

// jambaGGUF: the engine sees by the heads of keys which layers have attention, and
// by the router which have experts. One expert is none.
func jambaGGUF() *decoder.GGUF {
	conv := func(m *decoder.Model) []int { return []int{int(m.Number("mamba_d_conv")), 2 * m.Hidden} }
	state := func(m *decoder.Model) []int { return []int{int(m.Number("mamba_d_state")), 2 * m.Hidden} }
	return &decoder.GGUF{
		Name: "jamba", Unrotated: true, Other: linearAttention, Rename: map[string]string{"layer_types": ""},
		Keys: []decoder.GGUFKey{
			{Name: "ssm.inner_size", Config: "mamba_expand", Times: "hidden_size"}, {Name: "ssm.conv_kernel", Config: "mamba_d_conv"},
			{Name: "ssm.state_size", Config: "mamba_d_state"}, {Name: "ssm.time_step_rank", Config: "mamba_dt_rank"},
			{Name: "expert_count", Config: "num_experts", Above: 1}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
		},
		Constants: map[string]any{"mamba_expand": 2, "mamba_proj_bias": false, "mamba_conv_bias": true},
		Layers: func(layers int, has func(int, string) bool) map[string]any {
			values := map[string]any{}
			for key, tensor := range map[string]string{"attn_layer_": "attn_q", "expert_layer_": "ffn_gate_inp"} {
				step, first := period(layers, func(i int) bool { return has(i, tensor) })
				values[key+"period"], values[key+"offset"] = step, first
				if tensor == "ffn_gate_inp" && first == layers {
					values["num_experts"] = 1
				}
			}
			return values
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("mamba.in_proj", "ssm_in"), convNames("mamba.conv1d", "ssm_conv1d", conv), []decoder.GGUFName{
				{HF: "mamba.x_proj", GGUF: "ssm_x"}, {HF: "mamba.dt_layernorm", GGUF: "ssm_dt_norm"}, {HF: "mamba.dt_proj", GGUF: "ssm_dt"},
				{HF: "mamba.b_layernorm", GGUF: "ssm_b_norm"}, {HF: "mamba.c_layernorm", GGUF: "ssm_c_norm"},
				{HF: "mamba.A_log", GGUF: "ssm_a", Whole: true, NegExp: true, Dims: state},
				{HF: "mamba.D", GGUF: "ssm_d", Whole: true}, {HF: "mamba.out_proj", GGUF: "ssm_out"},
			}, spec.GGUFNorm("pre_ff_layernorm", "ffn_norm"), spec.GGUFExperts("feed_forward.router", jambaExperts), []decoder.GGUFName{
				{HF: "feed_forward.gate_proj", GGUF: "ffn_gate"}, {HF: "feed_forward.up_proj", GGUF: "ffn_up"},
				{HF: "feed_forward.down_proj", GGUF: "ffn_down"},
			}),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"mamba_expand": 2, "mamba_proj_bias": false, "mamba_conv_bias": true}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}

// period is the step and the first of layers that are every step-th one; first is
// the number of layers where there are none, and where they are not so evenly spread
// what comes next to it.
func period(layers int, is func(i int) bool) (step, first int) {
	first = 0
	for first < layers && !is(first) {
		first++
	}
	step = 1
	for first+step < layers && !is(first+step) {
		step++
	}
	return max(step, first+1), first
}
