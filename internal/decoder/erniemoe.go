package decoder

// ernieMoEArch is ERNIE 4.5's mixture of experts: a softmax router whose choice is
// corrected, shared experts, dense layers at either end.
func ernieMoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"}, Type: "ernie4_5_moe",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 4, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.Tied = f.bool("tie_word_embeddings", true)
			c.QKVBias = f.bool("use_bias", false)
			c.OBias, c.MLPBias, c.head.bias = c.QKVBias, c.QKVBias, c.QKVBias
			if c.Rope = c.readRope(f, fullAttention, 500000); c.Rope != nil {
				c.Rope.Interleaved = true
			}
			f.alias("moe_num_experts", "num_experts")
			f.alias("moe_k", "num_experts_per_tok")
			c.Experts = f.int("moe_num_experts", 64)
			s := routerSpec{
				experts: c.Experts, top: c.topExperts(f, "moe_k", 6), renormalize: true, floor: float32(f.float("moe_norm_min", 1e-12)),
				correction: "mlp.moe_statics.e_score_correction_bias", correctionShape: []int{1, c.Experts},
			}
			width, shared := f.size("moe_intermediate_size", 1536), f.int("moe_num_shared_experts", 2)
			first, last, step := f.int("moe_layer_start_index", 1), f.int("moe_layer_end_index", -1), f.size("moe_layer_interval", 1)
			if last == -1 {
				last = c.Layers - 1
			}
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				if i := b.Index; (i+1)%step != 0 || i < first || i > last {
					b.gatedMLP(stream, h, "mlp.", act)
					return
				}
				r := b.route(h, "mlp.gate", s)
				b.add(stream, b.experts(h, r, c.Experts, width, act, hubExperts), 1)
				if shared > 0 {
					b.gatedOf(stream, h, "mlp.shared_experts.", shared*width, act, c.MLPBias)
				}
			}
		},
	}
}
