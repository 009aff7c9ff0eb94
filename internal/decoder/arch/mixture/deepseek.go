package mixture

import (
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// deepseekV3Arch is DeepSeek-V3 and R1 (arXiv 2412.19437) and Kimi K2: latent
// attention, experts behind a sigmoid router with corrected choice and groups.
func deepseekV3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"DeepseekV3ForCausalLM"}, Type: "deepseek_v3", OtherTypes: []string{"kimi_k2"}, GGUF: deepseekV3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			l := readLatent(c, f, 1536)
			l.interleaved(c, f.Bool("rope_interleave", true))
			s := ReadDeepseekExperts(c, f, DeepseekExperts{
				Experts: 256, Top: 8, Shared: 1, Width: 2048, dense: 3, Factor: 2.5, Groups: 8, TopGroups: 4,
			})
			// With fewer experts to choose from, the choice among the others would be
			// arbitrary, but they would have weights.
			if left := s.Experts / max(s.Groups, 1) * s.TopGroups; f.Err == nil && left < s.Top {
				f.Unsupported("topk_group", fmt.Sprintf("%d", s.TopGroups), fmt.Sprintf("groups of no fewer experts than num_experts_per_tok, %d", s.Top))
			}
			return deepseekBlock(f, l, s)
		},
	}
}

// deepseekV2Arch is DeepSeek-V2 (arXiv 2405.04434): a softmax router, which may be
// limited to groups.
func deepseekV2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"DeepseekV2ForCausalLM"}, Type: "deepseek_v2", GGUF: deepseekV2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			l := readLatent(c, f, 1536)
			l.interleaved(c, true)
			c.MLPBias = f.Bool("mlp_bias", false)
			s := ReadDeepseekExperts(c, f, DeepseekExperts{
				Experts: 64, Top: 6, Shared: 2, Width: 1407, dense: 0, Factor: 1, Groups: 1, TopGroups: 1,
			})
			r := &s.Router
			r.Sigmoid, r.Correction, r.Renormalize, r.Pairs, r.Plus = false, "", false, false, 0
			switch method := f.Str("topk_method", "greedy"); method {
			case "group_limited_greedy":
			case "greedy":
				r.Groups = 0
			default:
				f.Unsupported("topk_method", method, "greedy, group_limited_greedy")
			}
			return deepseekBlock(f, l, s)
		},
	}
}

func deepseekBlock(f *spec.Fields, l latent, s DeepseekExperts) func(*spec.Builder) {
	act := spec.ReadActivation(f, "hidden_act", "silu")
	return func(b *spec.Builder) {
		h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
		latentAttention(b, h, l)
		h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
		deepseekMLP(b, h, s, act)
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

func readLatent(c *decoder.Config, f *spec.Fields, qRank int) latent {
	l := latent{
		kvRank: f.Size("kv_lora_rank", 512), rope: f.Size("qk_rope_head_dim", 64),
		nope: f.Size("qk_nope_head_dim", 128), val: f.Size("v_head_dim", 128),
	}
	if l.qRank = f.Int("q_lora_rank", 0); f.Absent("q_lora_rank") {
		l.qRank = qRank
		f.Note("q_lora_rank", qRank)
	}
	f.Values["head_dim"] = nil
	delete(f.Values, "head_dim")
	f.Otherwise("head_dim", l.rope)
	spec.ReadShape(c, f, 0, 0)
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
	c.HeadDim = l.nope + l.rope
	l.scale = 1 / math.Sqrt(float64(c.HeadDim))
	if c.Rope != nil && c.Rope.Scaling.Type != "" {
		for _, key := range []string{"rope_scaling", "rope_parameters"} {
			if o := f.Object(key); o != nil {
				if all := o.Float("mscale_all_dim", 0); all != 0 && c.Rope.Scaling.Factor > 1 {
					m := 0.1*all*math.Log(c.Rope.Scaling.Factor) + 1
					l.scale = m * m / math.Sqrt(float64(c.HeadDim))
					f.Note("mscale_all_dim", all)
				}
				f.Take(o)
			}
		}
	}
	return l
}

func (latent) interleaved(c *decoder.Config, yes bool) {
	if c.Rope != nil {
		c.Rope.Interleaved = yes
	}
}

// latentEps is the epsilon of norms inside attention, whatever the configuration
// says.
const latentEps = 1e-6

func latentAttention(b *spec.Builder, h program.Reg, l latent) {
	c, n := b.Config, b.Config.Heads
	inner := program.Norm{Eps: latentEps}
	var q program.Reg
	if l.qRank > 0 {
		qa := b.Linear(h, "self_attn.q_a_proj", l.qRank, c.QKVBias)
		q = b.Linear(b.Norm(qa, "self_attn.q_a_layernorm", inner), "self_attn.q_b_proj", n*(l.nope+l.rope), false)
	} else {
		q = b.Linear(h, "self_attn.q_proj", n*(l.nope+l.rope), false)
	}
	kva := b.Linear(h, "self_attn.kv_a_proj_with_mqa", l.kvRank+l.rope, c.QKVBias)
	kv := b.Linear(b.Norm(b.Columns(kva, 0, l.kvRank), "self_attn.kv_a_layernorm", inner), "self_attn.kv_b_proj", n*(l.nope+l.val), false)
	b.Rotate(program.Heads{Reg: q, N: n, Dim: l.rope, Base: l.nope, Step: l.nope + l.rope}, c.Rope)
	shared := program.Heads{Reg: kva, N: 1, Dim: l.rope, Base: l.kvRank} // the same in all heads
	b.Rotate(shared, c.Rope)
	k := b.Joined(program.Heads{Reg: kv, N: n, Dim: l.nope, Step: l.nope + l.val}, shared)
	a := b.Attend(program.Attention{
		Q: b.Whole(q, l.nope+l.rope), K: k,
		V:     program.Heads{Reg: kv, N: n, Dim: l.val, Base: l.nope, Step: l.nope + l.val},
		Scale: l.scale,
	})
	b.AddLinear(program.Stream, a, "self_attn.o_proj", c.OBias)
}

// DeepseekExperts are the experts of DeepSeek, GLM-4.5 and others: routed ones and
// shared ones, which are one MLP, in all but the first layers.
type DeepseekExperts struct {
	Experts, Top, Shared, Width, dense int
	Factor                             float64
	Groups, TopGroups                  int
	Router                             program.Router
}

// ReadDeepseekExperts reads the keys; missing is what absent ones mean.
func ReadDeepseekExperts(c *decoder.Config, f *spec.Fields, missing DeepseekExperts) DeepseekExperts {
	s := missing
	f.Alias("n_routed_experts", "num_local_experts")
	f.Alias("n_routed_experts", "num_experts")
	c.Experts = f.Int("n_routed_experts", s.Experts)
	s.Experts = c.Experts
	s.Top = spec.TopExperts(c, f, "num_experts_per_tok", s.Top)
	s.Shared = f.Size0("n_shared_experts", s.Shared)
	s.Width = f.Size("moe_intermediate_size", s.Width)
	s.dense = f.Size0("first_k_dense_replace", s.dense)
	if step := f.Int("moe_layer_freq", 1); step != 1 && f.Err == nil {
		f.Unsupported("moe_layer_freq", fmt.Sprintf("%d", step), "1")
	}
	s.Factor = f.Float("routed_scaling_factor", s.Factor)
	s.Groups, s.TopGroups = f.Int("n_group", s.Groups), f.Int("topk_group", s.TopGroups)
	if f.Err == nil && (s.Groups < 1 || s.Experts%s.Groups != 0 || s.Groups > 1 && s.Experts == s.Groups) {
		f.Fail("n_group", "%d, want a divisor of the number of experts, %d", s.Groups, s.Experts)
	}
	if f.Err == nil && (s.TopGroups < 1 || s.TopGroups > s.Groups) {
		f.Fail("topk_group", "%d, want 1 to n_group, %d", s.TopGroups, s.Groups)
	}
	c.Beyond = f.Size0("num_nextn_predict_layers", f.Size0("num_mtp_layers", 0))
	s.Router = program.Router{
		Experts: s.Experts, Top: s.Top, Sigmoid: true, Correction: "mlp.gate.e_score_correction_bias",
		Groups: s.Groups, TopGroups: s.TopGroups, Pairs: true,
		Renormalize: f.Bool("norm_topk_prob", true), Plus: 1e-20, Factor: s.Factor,
	}
	return s
}

func deepseekMLP(b *spec.Builder, h program.Reg, s DeepseekExperts, act program.Activation) {
	c := b.Config
	if b.Index < s.dense {
		b.GatedMLP(program.Stream, h, "mlp.", act)
		return
	}
	r := b.Route(h, "mlp.gate", s.Router)
	b.Add(program.Stream, b.Experts(h, r, s.Experts, s.Width, act, spec.HubExperts), 1)
	if s.Shared > 0 {
		b.GatedOf(program.Stream, h, "mlp.shared_experts.", s.Shared*s.Width, act, c.MLPBias)
	}
}

// deepseekKeys are the keys of DeepseekExperts.
func deepseekKeys() []decoder.GGUFKey {
	return []decoder.GGUFKey{
		{Name: "expert_count", Config: "n_routed_experts"}, {Name: "expert_used_count", Config: "num_experts_per_tok"},
		{Name: "expert_feed_forward_length", Config: "moe_intermediate_size"}, {Name: "expert_shared_count", Config: "n_shared_experts"},
		{Name: "leading_dense_block_count", Config: "first_k_dense_replace", Zero: true},
		{Name: "expert_weights_scale", Config: "routed_scaling_factor"}, {Name: "expert_weights_norm", Config: "norm_topk_prob"},
		{Name: "expert_group_count", Config: "n_group"}, {Name: "expert_group_used_count", Config: "topk_group"},
	}
}

// sigmoidGate says that scores are sigmoids.
var sigmoidGate = []decoder.GGUFFixed{{Name: "expert_gating_func", Value: uint32(2)}}

// deepseekNames are the names of MLPs and of DeepseekExperts.
func deepseekNames() []decoder.GGUFName {
	return spec.Joined(spec.GGUFGated, spec.GGUFExperts("mlp.gate", spec.HubExperts), correctionName("mlp.gate.e_score_correction_bias"),
		sharedNames("mlp.shared_experts."))
}

// correctionName is the vector that is added to scores for the choice.
func correctionName(path string) []decoder.GGUFName {
	return []decoder.GGUFName{{HF: path, GGUF: "exp_probs_b.bias", Whole: true}}
}

// sharedNames are those of an MLP for all tokens.
func sharedNames(path string) []decoder.GGUFName {
	return []decoder.GGUFName{
		{HF: path + "gate_proj", GGUF: "ffn_gate_shexp"}, {HF: path + "up_proj", GGUF: "ffn_up_shexp"}, {HF: path + "down_proj", GGUF: "ffn_down_shexp"},
	}
}

// requireShared refuses experts without shared ones.
func requireShared(m *decoder.Model) error {
	if m.Number("n_shared_experts") == 0 {
		return decoder.Refuse("n_shared_experts", 0, m.GGUF.Name)
	}
	return nil
}

// deepseekV3GGUF: keys and values stay in one matrix, so that the engine's cache
// holds all of them and not the narrow vector.
func deepseekV3GGUF() *decoder.GGUF {
	g := latentGGUF()
	g.Needs, g.Keys, g.Fixed = sigmoidGate[0].Name, append(latentKeys(), deepseekKeys()...), sigmoidGate
	return g
}

// deepseekV2GGUF: the engine ranks groups of experts otherwise.
func deepseekV2GGUF() *decoder.GGUF {
	g := latentGGUF()
	g.Keys = latentKeys()
	for _, k := range deepseekKeys() {
		switch k.Config {
		case "norm_topk_prob", "n_group", "topk_group":
		default:
			g.Keys = append(g.Keys, k)
		}
	}
	g.Fixed = []decoder.GGUFFixed{{Name: "expert_gating_func", Value: uint32(1)}, {Name: "expert_weights_norm", Value: false}}
	check := g.Check
	g.Check = func(m *decoder.Model) error {
		if m.Value("topk_method") != "greedy" && m.Number("n_group") > 1 {
			return decoder.Refuse("topk_method", m.Value("topk_method"), g.Name)
		}
		if err := m.Require(map[string]any{"mlp_bias": false}); err != nil {
			return err
		}
		return check(m)
	}
	return g
}

func latentKeys() []decoder.GGUFKey {
	return []decoder.GGUFKey{
		{Name: "attention.q_lora_rank", Config: "q_lora_rank", Zero: true}, {Name: "attention.kv_lora_rank", Config: "kv_lora_rank"},
	}
}

func latentGGUF() *decoder.GGUF {
	const a = "self_attn."
	return &decoder.GGUF{
		Name: "deepseek2", Latent: true,
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), []decoder.GGUFName{
			{HF: a + "q_proj", GGUF: "attn_q"}, {HF: a + "q_a_proj", GGUF: "attn_q_a"}, {HF: a + "q_a_layernorm", GGUF: "attn_q_a_norm"},
			{HF: a + "q_b_proj", GGUF: "attn_q_b"}, {HF: a + "kv_a_proj_with_mqa", GGUF: "attn_kv_a_mqa"}, {HF: a + "kv_a_layernorm", GGUF: "attn_kv_a_norm"},
			{HF: a + "kv_b_proj", GGUF: "attn_kv_b"}, spec.GGUFOutput,
		}, spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), deepseekNames()),
		Check: func(m *decoder.Model) error {
			if m.NormEps != latentEps {
				return decoder.Refuse("rms_norm_eps", m.NormEps, m.GGUF.Name)
			}
			if err := m.Require(map[string]any{"attention_bias": false, "rope_interleave": true}); err != nil {
				return err
			}
			return requireShared(m)
		},
	}
}
