package recurrent

import (
	"slices"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// qwen3NextArch is Qwen3-Next: gated delta rules, gated attention in every fourth
// layer, experts with a shared one.
func qwen3NextArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen3NextForCausalLM"}, Type: "qwen3_next", GGUF: qwen3NextGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			return readQwenHybrid(f, c, qwenHybrid{
				net: deltaNet{grouped: true}, kvHeads: 2, experts: 512, top: 10, renormalize: f.Bool("norm_topk_prob", true),
				dense: f.Ints("mlp_only_layers"), step: f.Size("decoder_sparse_step", 1),
			})
		},
	}
}

// qwen35Arch is the text model of Qwen3.5: that of Qwen3-Next with separate inputs
// of the delta rule and no experts.
func qwen35Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen3_5ForCausalLM"}, Type: "qwen3_5_text", GGUF: qwen35GGUF(false, false),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			return readQwenHybrid(f, c, qwenHybrid{kvHeads: 4, step: 1})
		},
	}
}

// qwen35MoEArch is Qwen3.5's mixture of experts.
func qwen35MoEArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Qwen3_5MoeForCausalLM"}, Type: "qwen3_5_moe_text", GGUF: qwen35GGUF(true, false),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Otherwise("intermediate_size", f.Size("moe_intermediate_size", 512))
			return readQwenHybrid(f, c, qwenHybrid{kvHeads: 2, experts: 256, top: 8, renormalize: true, step: 1})
		},
	}
}

// qwen35ImageArch and qwen35MoEImageArch are the same models as published, for
// images too.
func qwen35ImageArch() *spec.Architecture {
	a := spec.WithImages("Qwen3_5ForConditionalGeneration", "qwen3_5", "qwen3_5_text", map[string]map[string]int{"qwen3_5_text": {
		"vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16,
	}}, qwen35Arch())
	a.GGUF = qwen35GGUF(false, true)
	return a
}

func qwen35MoEImageArch() *spec.Architecture {
	a := spec.WithImages("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "qwen3_5_moe_text", map[string]map[string]int{"qwen3_5_moe_text": {
		"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
	}}, qwen35MoEArch())
	a.GGUF = qwen35GGUF(true, true)
	return a
}

// qwenHybrid is what differs between Qwen3-Next and Qwen3.5.
type qwenHybrid struct {
	net         deltaNet
	kvHeads     int // what absent keys mean
	experts     int // the same, 0: no experts
	top         int
	renormalize bool
	dense       []int // layers without experts
	step        int   // every so many layers have experts
}

func readQwenHybrid(f *spec.Fields, c *decoder.Config, s qwenHybrid) func(*spec.Builder) {
	spec.ReadShape(c, f, s.kvHeads, 256)
	c.QKNorm = true
	c.QKVBias = f.Bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.25)
	d := &s.net
	d.keys, d.values = f.Size("linear_num_key_heads", 16), f.Size("linear_num_value_heads", 32)
	d.keyDim, d.valueDim = f.Size("linear_key_head_dim", 128), f.Size("linear_value_head_dim", 128)
	d.conv = f.Size("linear_conv_kernel_dim", 4)
	if f.Err == nil && d.values%d.keys != 0 {
		f.Fail("linear_num_value_heads", "%d, want a multiple of linear_num_key_heads, %d", d.values, d.keys)
	}
	interval := f.Size("full_attention_interval", 4)
	types := spec.LayerTypes(c, f, func(i int) string {
		if (i+1)%interval == 0 {
			return spec.FullAttention
		}
		return linearAttention
	})
	checkTypes(f, "layer_types", types, linearAttention, spec.FullAttention)
	f.Note(deltaPeriod, attentionPeriod(types))
	noteSections(f)
	width, shared := 0, 0
	if s.experts > 0 {
		if c.Experts = f.Int("num_experts", s.experts); c.Experts > 0 {
			s.top = spec.TopExperts(c, f, "num_experts_per_tok", s.top)
		}
		width, shared = f.Size("moe_intermediate_size", 512), f.Size("shared_expert_intermediate_size", 512)
	}
	act := spec.ReadActivation(f, "hidden_act", "silu")
	d.act = act
	c.Head.Norm = program.Norm{PlusOne: true}
	return func(b *spec.Builder) {
		h := b.Norm(program.Stream, "input_layernorm", program.Norm{PlusOne: true})
		if types[b.Index] == linearAttention {
			b.AddLinear(program.Stream, mixDeltaNet(b, h, "linear_attn.", s.net), "linear_attn.out_proj", false)
		} else {
			gatedAttention(b, h)
		}
		h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{PlusOne: true})
		if slices.Contains(s.dense, b.Index) || c.Experts == 0 || (b.Index+1)%s.step != 0 {
			b.GatedMLP(program.Stream, h, "mlp.", act)
			return
		}
		r := b.Router(h, "mlp.gate", c.Experts, s.top, s.renormalize)
		b.Add(program.Stream, b.Experts(h, r, c.Experts, width, act, spec.HubExperts), 1)
		b.GatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
	}
}

// noteSections notes the parts of a rotation that turn with an image's time, height
// and width. In text all turn with the position.
func noteSections(f *spec.Fields) {
	sections := []int{11, 11, 10}
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.Object(key); o != nil {
			if v := o.Ints(rotarySections); v != nil {
				sections = v
			}
			f.Take(o)
		}
	}
	f.Note(rotarySections, sections)
}

// gatedAttention adds attention whose output is multiplied by the sigmoid of gates
// that come with the queries, head by head.
func gatedAttention(b *spec.Builder, h program.Reg) {
	c, gain := b.Config, program.Norm{PlusOne: true}
	qr := b.Linear(h, "self_attn.q_proj", 2*c.QueryWidth(), c.QKVBias)
	k := b.Whole(b.Linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias), c.HeadDim)
	v := b.Whole(b.Linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias), c.HeadDim)
	q := program.Heads{Reg: qr, N: c.Heads, Dim: c.HeadDim, Step: 2 * c.HeadDim}
	gate := q
	gate.Base = c.HeadDim
	b.HeadNorm(q, "self_attn.q_norm", gain, false)
	b.HeadNorm(k, "self_attn.k_norm", gain, false)
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v})
	b.Gate(b.Whole(a, c.HeadDim), gate, program.Sigmoid)
	b.AddLinear(program.Stream, a, "self_attn.o_proj", c.OBias)
}

// deltaNet is a mixer with the gated delta rule.
type deltaNet struct {
	keys, values, keyDim, valueDim, conv int
	grouped                              bool // inputs come by key head, from two linears
	act                                  program.Activation
}

// mixDeltaNet adds a mixer and returns what its output layer reads.
func mixDeltaNet(b *spec.Builder, h program.Reg, path string, d deltaNet) program.Reg {
	s := program.DeltaScan{Keys: d.keys, Values: d.values, KeyDim: d.keyDim, ValueDim: d.valueDim}
	var qkv program.Reg
	var z program.Heads
	if d.grouped {
		qkv, z = groupedDelta(b, h, path, d, &s)
	} else {
		qkv = b.Linear(h, path+"in_proj_qkv", 2*d.keys*d.keyDim+d.values*d.valueDim, false)
		z = b.Whole(b.Linear(h, path+"in_proj_z", d.values*d.valueDim, false), d.valueDim)
		s.Beta = b.Whole(b.Linear(h, path+"in_proj_b", d.values, false), 1)
		s.Step = b.Whole(b.Linear(h, path+"in_proj_a", d.values, false), 1)
	}
	s.QKV = b.Conv(qkv, 0, b.Width(qkv), d.conv, path+"conv1d", false, d.act)
	s.ALog, s.Shift = b.Param(path+"A_log", d.values), b.Param(path+"dt_bias", d.values)
	y := b.DeltaRule(s)
	b.GateNorm(b.Whole(y, d.valueDim), z, path+"norm", false, false)
	return y
}

// groupedDelta adds the inputs of Qwen3-Next: in_proj_qkvz has for each key head q,
// k, and v and z of its value heads; in_proj_ba b and a.
func groupedDelta(b *spec.Builder, h program.Reg, path string, d deltaNet, s *program.DeltaScan) (qkv program.Reg, z program.Heads) {
	each := d.values / d.keys
	step := 2*d.keyDim + 2*each*d.valueDim
	p := b.Linear(h, path+"in_proj_qkvz", d.keys*step, false)
	ba := b.Linear(h, path+"in_proj_ba", 2*d.values, false)
	key := func(at int) program.Heads {
		return program.Heads{Reg: p, N: d.keys, Dim: d.keyDim, Base: at, Step: step}
	}
	value := func(at int) program.Heads {
		return program.Heads{Reg: p, N: d.values, Dim: d.valueDim, Base: at, Group: each, GroupStep: step}
	}
	s.Beta = program.Heads{Reg: ba, N: d.values, Dim: 1, Group: each, GroupStep: 2 * each}
	s.Step = s.Beta
	s.Step.Base = each
	return b.Arrange(key(0), key(d.keyDim), value(2*d.keyDim)), value(2*d.keyDim + each*d.valueDim)
}
