package decoder

import "slices"

// qwen3MoEArch is Qwen3's mixture of experts: blocks of Qwen3 in which some or
// all MLPs are experts behind a softmax router.
func qwen3MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3MoeForCausalLM"}, Type: "qwen3_moe", GGUF: qwen3MoEGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 4, 0)
			c.QKNorm = true
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.qwenWindows(f)
			c.Experts = f.int("num_experts", f.int("num_local_experts", 128))
			top := c.topExperts(f, "num_experts_per_tok", 8)
			width := f.size("moe_intermediate_size", 768)
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
				const expert = "mlp.experts.%d."
				y := b.experts(h, r, c.Experts, width, act, expertNames{expert + "gate_proj", expert + "up_proj", expert + "down_proj"})
				b.add(stream, y, 1)
			}
		},
	}
}

// qwen3MoEGGUF: the engine has experts in every layer, whose weights add up to 1.
func qwen3MoEGGUF() *GGUF {
	return &GGUF{
		Name: "qwen3moe", Keys: qwenExpertKeys(""), Constants: map[string]any{"norm_topk_prob": true},
		Flags: []GGUFFlag{attentionBias},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), ggufQKNorms, []GGUFName{ggufOutput},
			ggufNorm("post_attention_layernorm", "ffn_norm"), ggufExperts("mlp.gate", hubExperts)),
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			return m.requireExperts(true)
		},
	}
}
