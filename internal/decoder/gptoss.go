package decoder

import "fmt"

// gptOSSArch is gpt-oss (OpenAI, 2025): attention with a sink in each head and a
// window in every other layer, experts with biases and a clamped gate. All experts
// of a block are in two tensors, [in, out], gate and up in turns.
func gptOSSArch() *Architecture {
	return &Architecture{
		Classes: []string{"GptOssForCausalLM"}, Type: "gpt_oss",
		read: func(f *fields, c *Config) func(*builder) {
			if f.null("rope_parameters") && f.null("rope_scaling") {
				f.otherwise("rope_scaling", map[string]any{
					"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false,
					"original_max_position_embeddings": 4096,
				})
			}
			c.readShape(f, 8, 64)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", true)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 150000)
			types := c.layerTypes(f, func(i int) string {
				if i%2 == 0 {
					return slidingAttention
				}
				return fullAttention
			})
			c.setWindows(f, types, slidingWindow(f, 128))
			f.alias("num_local_experts", "num_experts")
			c.Experts = f.int("num_local_experts", 128)
			top := c.topExperts(f, "num_experts_per_tok", 4)
			alpha, limit := f.float("swiglu_alpha", 1.702), f.float("swiglu_limit", 7)
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				q, k, v := b.qkv(h)
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.Index), sinkPath: "self_attn.sinks"})
				b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.gptOSSExperts(h, top, alpha, limit)
			}
		},
	}
}

func (b *builder) gptOSSExperts(h reg, top int, alpha, limit float64) {
	c, width := b.c, b.c.Intermediate
	r := b.route(h, "mlp.router", routerSpec{experts: c.Experts, top: top, bias: true, ofChosen: true})
	y := b.zeros(c.Hidden)
	for e := range c.Experts {
		in := b.gather(h, r, e)
		part := func(path, stored string, src reg, out int, s Slice) reg {
			dst := b.linear(src, fmt.Sprintf("mlp.experts.%d."+path, e), out, true)
			s.Weight, s.Bias = "mlp.experts."+stored, "mlp.experts."+stored+"_bias"
			s.Experts, s.Expert, s.Transposed = c.Experts, e, true
			b.sliced(s)
			return dst
		}
		gate := part("gate_proj", "gate_up_proj", in, width, Slice{Outputs: 2 * width, Step: 2})
		up := part("up_proj", "gate_up_proj", in, width, Slice{Outputs: 2 * width, Output0: 1, Step: 2})
		b.clampedGate(gate, up, alpha, limit)
		b.scatter(y, part("down_proj", "down_proj", gate, c.Hidden, Slice{Outputs: c.Hidden}))
	}
	b.add(stream, y, 1)
}
