package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// ernieMoEArch is ERNIE 4.5's mixture of experts: a softmax router whose choice is
// corrected, shared experts, dense layers at either end.
func ernieMoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM"}, Type: "ernie4_5_moe", GGUF: ernieMoEGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 4, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.Tied = f.Bool("tie_word_embeddings", true)
			c.QKVBias = f.Bool("use_bias", false)
			c.OBias, c.MLPBias, c.Head.Bias = c.QKVBias, c.QKVBias, c.QKVBias
			if c.Rope = spec.ReadRope(c, f, spec.FullAttention, 500000); c.Rope != nil {
				c.Rope.Interleaved = true
			}
			f.Alias("moe_num_experts", "num_experts")
			f.Alias("moe_k", "num_experts_per_tok")
			c.Experts = f.Int("moe_num_experts", 64)
			s := program.Router{
				Experts: c.Experts, Top: spec.TopExperts(c, f, "moe_k", 6), Renormalize: true, Floor: float32(f.Float("moe_norm_min", 1e-12)),
				Correction: "mlp.moe_statics.e_score_correction_bias", CorrectionShape: []int{1, c.Experts},
			}
			width, shared := f.Size("moe_intermediate_size", 1536), f.Int("moe_num_shared_experts", 2)
			first, last, step := f.Int("moe_layer_start_index", 1), f.Int("moe_layer_end_index", -1), f.Size("moe_layer_interval", 1)
			if last == -1 {
				last = c.Layers - 1
			}
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				if i := b.Index; (i+1)%step != 0 || i < first || i > last {
					b.GatedMLP(program.Stream, h, "mlp.", act)
					return
				}
				r := b.Route(h, "mlp.gate", s)
				b.Add(program.Stream, b.Experts(h, r, c.Experts, width, act, spec.HubExperts), 1)
				if shared > 0 {
					b.GatedOf(program.Stream, h, "mlp.shared_experts.", shared*width, act, c.MLPBias)
				}
			}
		},
	}
}

// ernieMoEGGUF: the engine has experts in all layers but the first ones.
func ernieMoEGGUF() *decoder.GGUF {
	correction := decoder.GGUFName{HF: "mlp.moe_statics.e_score_correction_bias", GGUF: "exp_probs_b.bias", Whole: true, Flat: true}
	return &decoder.GGUF{
		Name: "ernie4_5-moe", Constants: map[string]any{"use_bias": false},
		Keys: []decoder.GGUFKey{
			{Name: "expert_count", Config: "moe_num_experts"}, {Name: "expert_used_count", Config: "moe_k"},
			{Name: "expert_feed_forward_length", Config: "moe_intermediate_size"}, {Name: "expert_shared_count", Config: "moe_num_shared_experts", Zero: true},
			{Name: "expert_shared_feed_forward_length", Config: "moe_intermediate_size", Times: "moe_num_shared_experts"},
			{Name: "leading_dense_block_count", Config: "moe_layer_start_index", Zero: true}, {Name: "interleave_moe_layer_step", Config: "moe_layer_interval"},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFGated, spec.GGUFExperts("mlp.gate", spec.HubExperts),
			[]decoder.GGUFName{correction}, sharedNames("mlp.shared_experts.")),
		Check: func(m *decoder.Model) error {
			if last := m.Number("moe_layer_end_index"); last != -1 && int(last) < m.Layers-1 {
				return decoder.Refuse("moe_layer_end_index", last, m.GGUF.Name)
			}
			return m.Require(map[string]any{"use_bias": false, "moe_layer_interval": 1})
		},
	}
}
