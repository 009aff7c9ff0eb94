package decoder

import "math"

// phimoeArch is Phi-3.5-MoE (Abdin et al., arXiv 2404.14219): LayerNorm, and two
// experts for each token by SparseMixer.
func phimoeArch() *Architecture {
	return &Architecture{
		Classes: []string{"PhimoeForCausalLM", "PhiMoEForCausalLM"}, Type: "phimoe",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readRope(f, fullAttention, 10000)
			c.mixerScaling(f)
			w := slidingWindow(f, 0)
			c.setWindows(f, c.layerTypes(f, everyLayer(w, 0)), w)
			f.alias("num_local_experts", "num_experts")
			c.Experts = f.int("num_local_experts", 16)
			if f.err == nil && c.Experts < 2 {
				f.fail("num_local_experts", "%d, want at least 2", c.Experts)
			}
			jitter := f.float("router_jitter_noise", 0.01)
			if f.err == nil && !(jitter > 0) {
				f.fail("router_jitter_noise", "%g, want a positive number", jitter)
			}
			act := readActivation(f, "hidden_act", "silu")
			c.head = headSpec{norm: layerNorm, bias: f.bool("lm_head_bias", false)}
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", layerNorm)
				b.plainAttention(h)
				h = b.norm(stream, "post_attention_layernorm", layerNorm)
				r := b.route(h, "block_sparse_moe.gate", routerSpec{experts: c.Experts, top: 2, jitter: jitter})
				b.add(stream, b.experts(h, r, c.Experts, c.Intermediate, act, wExperts), 1)
			}
		},
	}
}

// mixerScaling is what transformers makes of longrope here: always the divisors
// for short sequences, and of the factors of cosines and sines that of the length.
func (c *Config) mixerScaling(f *fields) {
	if f.err != nil || c.Rope.Scaling.Type != "longrope" {
		return
	}
	s := &c.Rope.Scaling
	s.Long = s.Short
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.object(key); o != nil {
			s.Attention = o.float("short_mscale", 1)
			s.LongAttention = o.float("long_mscale", s.Attention)
			f.take(o)
		}
	}
	if !(s.LongAttention > 0) || math.IsInf(s.LongAttention, 0) {
		f.fail("rope_scaling", "long_mscale %g, want a positive number", s.LongAttention)
	}
}
