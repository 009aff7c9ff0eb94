package mixture

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// gptOSSArch is gpt-oss (OpenAI, 2025): attention with a sink in each head and a
// window in every other layer, experts with biases and a clamped gate. All experts
// of a block are in two tensors, [in, out], gate and up in turns.
func gptOSSArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GptOssForCausalLM"}, Type: "gpt_oss", GGUF: gptOSSGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			if f.Null("rope_parameters") && f.Null("rope_scaling") {
				f.Otherwise("rope_scaling", map[string]any{
					"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false,
					"original_max_position_embeddings": 4096,
				})
			}
			spec.ReadShape(c, f, 8, 64)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", true)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 150000)
			types := spec.LayerTypes(c, f, func(i int) string {
				if i%2 == 0 {
					return spec.SlidingAttention
				}
				return spec.FullAttention
			})
			spec.SetWindows(c, f, types, spec.SlidingWindow(f, 128))
			f.Alias("num_local_experts", "num_experts")
			c.Experts = f.Int("num_local_experts", 128)
			top := spec.TopExperts(c, f, "num_experts_per_tok", 4)
			alpha, limit := f.Float("swiglu_alpha", 1.702), f.Float("swiglu_limit", 7)
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := b.QKV(h)
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index), SinkPath: "self_attn.sinks"})
				b.AddLinear(program.Stream, a, "self_attn.o_proj", c.OBias)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				gptOSSExperts(b, h, top, alpha, limit)
			}
		},
	}
}

func gptOSSExperts(b *spec.Builder, h program.Reg, top int, alpha, limit float64) {
	c, width := b.Config, b.Config.Intermediate
	r := b.Route(h, "mlp.router", program.Router{Experts: c.Experts, Top: top, Bias: true, OfChosen: true})
	y := b.Zeros(c.Hidden)
	for e := range c.Experts {
		in := b.Gather(h, r, e)
		part := func(path, stored string, src program.Reg, out int, s program.Slice) program.Reg {
			dst := b.Linear(src, fmt.Sprintf("mlp.experts.%d."+path, e), out, true)
			s.Weight, s.Bias = "mlp.experts."+stored, "mlp.experts."+stored+"_bias"
			s.Experts, s.Expert, s.Transposed = c.Experts, e, true
			b.Sliced(s)
			return dst
		}
		gate := part("gate_proj", "gate_up_proj", in, width, program.Slice{Outputs: 2 * width, Step: 2})
		up := part("up_proj", "gate_up_proj", in, width, program.Slice{Outputs: 2 * width, Output0: 1, Step: 2})
		b.ClampedGate(gate, up, alpha, limit)
		b.Scatter(y, part("down_proj", "down_proj", gate, c.Hidden, program.Slice{Outputs: c.Hidden}))
	}
	b.Add(program.Stream, y, 1)
}

// gptOSSGGUF: gate and up of each expert apart, and an output matrix in any case.
// The ends of YaRN's ramp are rounded in the engine.
func gptOSSGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gpt-oss", OwnHead: true, Period: 2, YarnRounds: true, Scaled: true,
		Keys: []decoder.GGUFKey{
			{Name: "expert_count", Config: "num_local_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
			{Name: "expert_feed_forward_length", Config: "intermediate_size"}, {Name: "attention.sliding_window", Config: "sliding_window"},
		},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			spec.GGUFOutput, {HF: "self_attn.sinks", GGUF: "attn_sinks.weight", Whole: true}, {HF: "post_attention_layernorm", GGUF: "post_attention_norm"},
		}, spec.GGUFExperts("mlp.router", spec.HubExperts)),
		Check: func(m *decoder.Model) error {
			return m.Require(map[string]any{"attention_bias": true, "swiglu_alpha": 1.702, "swiglu_limit": 7.0})
		},
	}
}
