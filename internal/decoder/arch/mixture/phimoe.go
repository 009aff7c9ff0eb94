package mixture

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// phimoeArch is Phi-3.5-MoE (Abdin et al., arXiv 2404.14219): LayerNorm, and two
// experts for each token by SparseMixer.
func phimoeArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"PhimoeForCausalLM", "PhiMoEForCausalLM"}, Type: "phimoe",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			mixerScaling(c, f)
			w := spec.SlidingWindow(f, 0)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			f.Alias("num_local_experts", "num_experts")
			c.Experts = f.Int("num_local_experts", 16)
			if f.Err == nil && c.Experts < 2 {
				f.Fail("num_local_experts", "%d, want at least 2", c.Experts)
			}
			jitter := f.Float("router_jitter_noise", 0.01)
			if f.Err == nil && !(jitter > 0) {
				f.Fail("router_jitter_noise", "%g, want a positive number", jitter)
			}
			act := spec.ReadActivation(f, "hidden_act", "silu")
			c.Head = decoder.HeadSpec{Norm: spec.LayerNorm, Bias: f.Bool("lm_head_bias", false)}
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", spec.LayerNorm)
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", spec.LayerNorm)
				r := b.Route(h, "block_sparse_moe.gate", program.Router{Experts: c.Experts, Top: 2, Jitter: jitter})
				b.Add(program.Stream, b.Experts(h, r, c.Experts, c.Intermediate, act, spec.WExperts), 1)
			}
		},
	}
}

// mixerScaling is what transformers makes of longrope here: always the divisors
// for short sequences, and of the factors of cosines and sines that of the length.
func mixerScaling(c *decoder.Config, f *spec.Fields) {
	if f.Err != nil || c.Rope.Scaling.Type != "longrope" {
		return
	}
	s := &c.Rope.Scaling
	s.Long = s.Short
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.Object(key); o != nil {
			s.Attention = o.Float("short_mscale", 1)
			s.LongAttention = o.Float("long_mscale", s.Attention)
			f.Take(o)
		}
	}
	if !(s.LongAttention > 0) || math.IsInf(s.LongAttention, 0) {
		f.Fail("rope_scaling", "long_mscale %g, want a positive number", s.LongAttention)
	}
}
