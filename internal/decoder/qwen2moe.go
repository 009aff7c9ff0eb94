package decoder

import (
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
)

// qwen2MoEArch is Qwen1.5's and Qwen2's mixture of experts: beside the routed
// experts a shared one, weighted by a sigmoid.
func qwen2MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen2MoeForCausalLM"}, Type: "qwen2_moe", GGUF: qwen2MoEGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 16, 0)
			c.QKVBias = f.bool("qkv_bias", true)
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.qwenWindows(f)
			c.Experts = f.int("num_experts", 60)
			top := c.topExperts(f, "num_experts_per_tok", 4)
			width, shared := f.size("moe_intermediate_size", 1408), f.size("shared_expert_intermediate_size", 5632)
			step := f.size("decoder_sparse_step", 1)
			dense := f.ints("mlp_only_layers")
			renormalize := f.bool("norm_topk_prob", false)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				if slices.Contains(dense, b.p.Index) || (b.p.Index+1)%step != 0 {
					b.gatedMLP(stream, h, "mlp.", act)
					return
				}
				r := b.router(h, "mlp.gate", c.Experts, top, renormalize)
				b.add(stream, b.experts(h, r, c.Experts, width, act, hubExperts), 1)
				b.gatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
			}
		},
	}
}

// gatedShared adds an expert for all tokens, weighted by the sigmoid of one logit.
func (b *builder) gatedShared(h reg, path, gate string, width int, act activation) {
	y := b.zeros(b.width(h))
	b.gatedOf(y, h, path, width, act, false)
	b.do(&weighOp{dst: y, src: h, weight: b.param(gate, 1, b.width(h))})
	b.add(stream, y, 1)
}

// weighOp multiplies each row of dst by the sigmoid of a product of the row of
// src with a vector.
type weighOp struct {
	dst, src reg
	weight   int
}

func (o *weighOp) reads() []reg  { return []reg{o.src, o.dst} }
func (o *weighOp) writes() []reg { return []reg{o.dst} }

func (o *weighOp) run(x *exec) {
	src, dst, w := x.reg(o.src), x.reg(o.dst), x.vector(o.weight)
	x.rows(dst.Rows, func(i int) {
		var sum float64
		for j, v := range src.Row(i) {
			sum += float64(v) * float64(w[j])
		}
		kernel.Scale(dst.Row(i), float32(1/(1+math.Exp(-sum))))
	})
}

// qwen2MoEGGUF: the engine has experts in every layer, whose weights stay as the
// softmax gives them.
func qwen2MoEGGUF() *GGUF {
	return &GGUF{
		Name: "qwen2moe", OwnHead: true, Keys: qwenExpertKeys("shared_expert_intermediate_size"),
		Flags: []GGUFFlag{{Config: "qkv_bias", Tensors: []string{"attn_q.bias"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), ggufExperts("mlp.gate", hubExperts), []GGUFName{
				{HF: "mlp.shared_expert_gate", GGUF: "ffn_gate_inp_shexp", Flat: true},
				{HF: "mlp.shared_expert.gate_proj", GGUF: "ffn_gate_shexp"}, {HF: "mlp.shared_expert.up_proj", GGUF: "ffn_up_shexp"},
				{HF: "mlp.shared_expert.down_proj", GGUF: "ffn_down_shexp"},
			}),
		Check: func(m *Model) error {
			if err := m.requireExperts(false); err != nil {
				return err
			}
			return m.requireHidden()
		},
	}
}

// qwenExpertKeys are the keys of experts; shared is "" where there is no shared one.
func qwenExpertKeys(shared string) []GGUFKey {
	keys := []GGUFKey{
		{"expert_count", "num_experts"}, {"expert_used_count", "num_experts_per_tok"},
		{"expert_feed_forward_length", "moe_intermediate_size"},
	}
	if shared != "" {
		keys = append(keys, GGUFKey{"expert_shared_feed_forward_length", shared})
	}
	return keys
}

// requireExperts refuses layers without experts, and weights of another norm.
func (m *Model) requireExperts(renormalize bool) error {
	for _, p := range m.Blocks {
		if p.hasLinear("mlp.gate_proj") {
			return refuse("mlp_only_layers", "layers without experts", m.Arch.GGUF.Name)
		}
	}
	return m.require(map[string]any{"norm_topk_prob": renormalize})
}

func (p *Program) hasLinear(path string) bool {
	return slices.ContainsFunc(p.Linears, func(l LinearInfo) bool { return l.Path == path })
}
