package decoder

import (
	"fmt"
	"math"
)

// deepseekV3Arch is DeepSeek-V3 and R1 (arXiv 2412.19437) and Kimi K2: latent
// attention, experts behind a sigmoid router with corrected choice and groups.
func deepseekV3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"DeepseekV3ForCausalLM"}, Type: "deepseek_v3", OtherTypes: []string{"kimi_k2"},
		read: func(f *fields, c *Config) func(*builder) {
			l := c.readLatent(f, 1536)
			l.interleaved(c, f.bool("rope_interleave", true))
			s := c.readDeepseekExperts(f, deepseekExperts{
				experts: 256, top: 8, shared: 1, width: 2048, dense: 3, factor: 2.5, groups: 8, topGroups: 4,
			})
			// With fewer experts to choose from, the choice among the others would be
			// arbitrary, but they would have weights.
			if left := s.experts / max(s.groups, 1) * s.topGroups; f.err == nil && left < s.top {
				f.unsupported("topk_group", fmt.Sprintf("%d", s.topGroups), fmt.Sprintf("groups of no fewer experts than num_experts_per_tok, %d", s.top))
			}
			return deepseekBlock(f, l, s)
		},
	}
}

// deepseekV2Arch is DeepSeek-V2 (arXiv 2405.04434): a softmax router, which may be
// limited to groups.
func deepseekV2Arch() *Architecture {
	return &Architecture{
		Classes: []string{"DeepseekV2ForCausalLM"}, Type: "deepseek_v2",
		read: func(f *fields, c *Config) func(*builder) {
			l := c.readLatent(f, 1536)
			l.interleaved(c, true)
			c.MLPBias = f.bool("mlp_bias", false)
			s := c.readDeepseekExperts(f, deepseekExperts{
				experts: 64, top: 6, shared: 2, width: 1407, dense: 0, factor: 1, groups: 1, topGroups: 1,
			})
			r := &s.router
			r.sigmoid, r.correction, r.renormalize, r.pairs, r.plus = false, "", false, false, 0
			switch method := f.str("topk_method", "greedy"); method {
			case "group_limited_greedy":
			case "greedy":
				r.groups = 0
			default:
				f.unsupported("topk_method", method, "greedy, group_limited_greedy")
			}
			return deepseekBlock(f, l, s)
		},
	}
}

func deepseekBlock(f *fields, l latent, s deepseekExperts) func(*builder) {
	act := readActivation(f, "hidden_act", "silu")
	return func(b *builder) {
		h := b.norm(stream, "input_layernorm", normSpec{})
		b.latentAttention(h, l)
		h = b.norm(stream, "post_attention_layernorm", normSpec{})
		b.deepseekMLP(h, s, act)
	}
}

// latent is multi-head latent attention (arXiv 2405.04434, section 2.1): keys and
// values of all heads come from one narrow vector, queries from another or
// directly; a part of each key is rotated and the same in all heads.
type latent struct {
	qRank, kvRank   int // widths of the vectors; qRank 0: none
	nope, rope, val int // of a head: key without and with rotation, value
	scale           float64
}

func (c *Config) readLatent(f *fields, qRank int) latent {
	l := latent{
		kvRank: f.size("kv_lora_rank", 512), rope: f.size("qk_rope_head_dim", 64),
		nope: f.size("qk_nope_head_dim", 128), val: f.size("v_head_dim", 128),
	}
	if l.qRank = f.int("q_lora_rank", 0); f.absent("q_lora_rank") {
		l.qRank = qRank
	}
	f.values["head_dim"] = nil
	delete(f.values, "head_dim")
	f.otherwise("head_dim", l.rope)
	c.readShape(f, 0, 0)
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = c.readRope(f, fullAttention, 10000)
	c.HeadDim = l.nope + l.rope
	l.scale = 1 / math.Sqrt(float64(c.HeadDim))
	if c.Rope != nil && c.Rope.Scaling.Type != "" {
		for _, key := range []string{"rope_scaling", "rope_parameters"} {
			if o := f.object(key); o != nil {
				if all := o.float("mscale_all_dim", 0); all != 0 && c.Rope.Scaling.Factor > 1 {
					m := 0.1*all*math.Log(c.Rope.Scaling.Factor) + 1
					l.scale = m * m / math.Sqrt(float64(c.HeadDim))
				}
				f.take(o)
			}
		}
	}
	return l
}

func (latent) interleaved(c *Config, yes bool) {
	if c.Rope != nil {
		c.Rope.Interleaved = yes
	}
}

func (b *builder) latentAttention(h reg, l latent) {
	c, n := b.c, b.c.Heads
	inner := normSpec{eps: 1e-6} // whatever the configuration says
	var q reg
	if l.qRank > 0 {
		qa := b.linear(h, "self_attn.q_a_proj", l.qRank, c.QKVBias)
		q = b.linear(b.norm(qa, "self_attn.q_a_layernorm", inner), "self_attn.q_b_proj", n*(l.nope+l.rope), false)
	} else {
		q = b.linear(h, "self_attn.q_proj", n*(l.nope+l.rope), false)
	}
	kva := b.linear(h, "self_attn.kv_a_proj_with_mqa", l.kvRank+l.rope, c.QKVBias)
	kv := b.linear(b.norm(b.columns(kva, 0, l.kvRank), "self_attn.kv_a_layernorm", inner), "self_attn.kv_b_proj", n*(l.nope+l.val), false)
	b.rotate(heads{reg: q, n: n, dim: l.rope, base: l.nope, step: l.nope + l.rope}, c.Rope)
	shared := heads{reg: kva, n: 1, dim: l.rope, base: l.kvRank} // the same in all heads
	b.rotate(shared, c.Rope)
	k := b.joined(heads{reg: kv, n: n, dim: l.nope, step: l.nope + l.val}, shared)
	a := b.attend(attention{
		q: b.whole(q, l.nope+l.rope), k: k,
		v:     heads{reg: kv, n: n, dim: l.val, base: l.nope, step: l.nope + l.val},
		scale: l.scale,
	})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
}

// deepseekExperts are the experts of DeepSeek, GLM-4.5 and others: routed ones and
// shared ones, which are one MLP, in all but the first layers.
type deepseekExperts struct {
	experts, top, shared, width, dense int
	factor                             float64
	groups, topGroups                  int
	router                             routerSpec
}

// readDeepseekExperts reads the keys; missing is what absent ones mean.
func (c *Config) readDeepseekExperts(f *fields, missing deepseekExperts) deepseekExperts {
	s := missing
	f.alias("n_routed_experts", "num_local_experts")
	f.alias("n_routed_experts", "num_experts")
	c.Experts = f.int("n_routed_experts", s.experts)
	s.experts = c.Experts
	s.top = c.topExperts(f, "num_experts_per_tok", s.top)
	s.shared = f.size0("n_shared_experts", s.shared)
	s.width = f.size("moe_intermediate_size", s.width)
	s.dense = f.size0("first_k_dense_replace", s.dense)
	if step := f.int("moe_layer_freq", 1); step != 1 && f.err == nil {
		f.unsupported("moe_layer_freq", fmt.Sprintf("%d", step), "1")
	}
	s.factor = f.float("routed_scaling_factor", s.factor)
	s.groups, s.topGroups = f.int("n_group", s.groups), f.int("topk_group", s.topGroups)
	if f.err == nil && (s.groups < 1 || s.experts%s.groups != 0 || s.groups > 1 && s.experts == s.groups) {
		f.fail("n_group", "%d, want a divisor of the number of experts, %d", s.groups, s.experts)
	}
	if f.err == nil && (s.topGroups < 1 || s.topGroups > s.groups) {
		f.fail("topk_group", "%d, want 1 to n_group, %d", s.topGroups, s.groups)
	}
	c.beyond = f.size0("num_nextn_predict_layers", f.size0("num_mtp_layers", 0))
	s.router = routerSpec{
		experts: s.experts, top: s.top, sigmoid: true, correction: "mlp.gate.e_score_correction_bias",
		groups: s.groups, topGroups: s.topGroups, pairs: true,
		renormalize: f.bool("norm_topk_prob", true), plus: 1e-20, factor: s.factor,
	}
	return s
}

func (b *builder) deepseekMLP(h reg, s deepseekExperts, act activation) {
	c := b.c
	if b.Index < s.dense {
		b.gatedMLP(stream, h, "mlp.", act)
		return
	}
	r := b.route(h, "mlp.gate", s.router)
	b.add(stream, b.experts(h, r, s.experts, s.width, act, hubExperts), 1)
	if s.shared > 0 {
		b.gatedOf(stream, h, "mlp.shared_experts.", s.shared*s.width, act, c.MLPBias)
	}
}
