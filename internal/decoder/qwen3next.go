package decoder

import "slices"

// qwen3NextArch is Qwen3-Next: gated delta rules, gated attention in every fourth
// layer, experts with a shared one.
func qwen3NextArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3NextForCausalLM"}, Type: "qwen3_next",
		read: func(f *fields, c *Config) func(*builder) {
			return readQwenHybrid(f, c, qwenHybrid{
				net: deltaNet{grouped: true}, kvHeads: 2, experts: 512, top: 10, renormalize: f.bool("norm_topk_prob", true),
				dense: f.ints("mlp_only_layers"), step: f.size("decoder_sparse_step", 1),
			})
		},
	}
}

// qwen35Arch is the text model of Qwen3.5: that of Qwen3-Next with separate inputs
// of the delta rule and no experts.
func qwen35Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3_5ForCausalLM"}, Type: "qwen3_5_text",
		read: func(f *fields, c *Config) func(*builder) {
			return readQwenHybrid(f, c, qwenHybrid{kvHeads: 4, step: 1})
		},
	}
}

// qwen35MoEArch is Qwen3.5's mixture of experts.
func qwen35MoEArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3_5MoeForCausalLM"}, Type: "qwen3_5_moe_text",
		read: func(f *fields, c *Config) func(*builder) {
			f.otherwise("intermediate_size", f.size("moe_intermediate_size", 512))
			return readQwenHybrid(f, c, qwenHybrid{kvHeads: 2, experts: 256, top: 8, renormalize: true, step: 1})
		},
	}
}

// qwen35ImageArch and qwen35MoEImageArch are the same models as published, for
// images too.
func qwen35ImageArch() *Architecture {
	return withImages("Qwen3_5ForConditionalGeneration", "qwen3_5", "qwen3_5_text", map[string]map[string]int{"qwen3_5_text": {
		"vocab_size": 248320, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 32, "num_attention_heads": 16,
	}})
}

func qwen35MoEImageArch() *Architecture {
	return withImages("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", "qwen3_5_moe_text", map[string]map[string]int{"qwen3_5_moe_text": {
		"vocab_size": 248320, "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16,
	}})
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

func readQwenHybrid(f *fields, c *Config, s qwenHybrid) func(*builder) {
	c.readShape(f, s.kvHeads, 256)
	c.QKNorm = true
	c.QKVBias = f.bool("attention_bias", false)
	c.OBias = c.QKVBias
	c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.25)
	d := &s.net
	d.keys, d.values = f.size("linear_num_key_heads", 16), f.size("linear_num_value_heads", 32)
	d.keyDim, d.valueDim = f.size("linear_key_head_dim", 128), f.size("linear_value_head_dim", 128)
	d.conv = f.size("linear_conv_kernel_dim", 4)
	if f.err == nil && d.values%d.keys != 0 {
		f.fail("linear_num_value_heads", "%d, want a multiple of linear_num_key_heads, %d", d.values, d.keys)
	}
	interval := f.size("full_attention_interval", 4)
	types := c.layerTypes(f, func(i int) string {
		if (i+1)%interval == 0 {
			return fullAttention
		}
		return linearAttention
	})
	checkTypes(f, "layer_types", types, linearAttention, fullAttention)
	width, shared := 0, 0
	if s.experts > 0 {
		if c.Experts = f.int("num_experts", s.experts); c.Experts > 0 {
			s.top = c.topExperts(f, "num_experts_per_tok", s.top)
		}
		width, shared = f.size("moe_intermediate_size", 512), f.size("shared_expert_intermediate_size", 512)
	}
	act := readActivation(f, "hidden_act", "silu")
	d.act = act
	c.head.norm = normSpec{plusOne: true}
	return func(b *builder) {
		h := b.norm(stream, "input_layernorm", normSpec{plusOne: true})
		if types[b.p.Index] == linearAttention {
			b.addLinear(stream, b.deltaNet(h, "linear_attn.", s.net), "linear_attn.out_proj", false)
		} else {
			b.gatedAttention(h)
		}
		h = b.norm(stream, "post_attention_layernorm", normSpec{plusOne: true})
		if slices.Contains(s.dense, b.p.Index) || c.Experts == 0 || (b.p.Index+1)%s.step != 0 {
			b.gatedMLP(stream, h, "mlp.", act)
			return
		}
		r := b.router(h, "mlp.gate", c.Experts, s.top, s.renormalize)
		b.add(stream, b.experts(h, r, c.Experts, width, act, hubExperts), 1)
		b.gatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
	}
}

// gatedAttention adds attention whose output is multiplied by the sigmoid of gates
// that come with the queries, head by head.
func (b *builder) gatedAttention(h reg) {
	c, gain := b.c, normSpec{plusOne: true}
	qr := b.linear(h, "self_attn.q_proj", 2*c.QueryWidth(), c.QKVBias)
	k := b.whole(b.linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias), c.HeadDim)
	v := b.whole(b.linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias), c.HeadDim)
	q := heads{reg: qr, n: c.Heads, dim: c.HeadDim, step: 2 * c.HeadDim}
	gate := q
	gate.base = c.HeadDim
	b.headNorm(q, "self_attn.q_norm", gain, false)
	b.headNorm(k, "self_attn.k_norm", gain, false)
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	a := b.attend(attention{q: q, k: k, v: v})
	b.do(&gateOp{y: b.whole(a, c.HeadDim), z: gate, act: sigmoid, gain: -1})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
}

// deltaNet is a mixer with the gated delta rule.
type deltaNet struct {
	keys, values, keyDim, valueDim, conv int
	grouped                              bool // inputs come by key head, from two linears
	act                                  activation
}

// deltaNet adds a mixer and returns what its output layer reads.
func (b *builder) deltaNet(h reg, path string, d deltaNet) reg {
	o := &deltaScan{keys: d.keys, values: d.values, keyDim: d.keyDim, valueDim: d.valueDim}
	var qkv reg
	var z heads
	if d.grouped {
		qkv, z = b.groupedDelta(h, path, d, o)
	} else {
		qkv = b.linear(h, path+"in_proj_qkv", 2*d.keys*d.keyDim+d.values*d.valueDim, false)
		z = b.whole(b.linear(h, path+"in_proj_z", d.values*d.valueDim, false), d.valueDim)
		o.beta = b.whole(b.linear(h, path+"in_proj_b", d.values, false), 1)
		o.step = b.whole(b.linear(h, path+"in_proj_a", d.values, false), 1)
	}
	o.qkv = b.conv(qkv, 0, b.width(qkv), d.conv, path+"conv1d", false, d.act)
	o.dst = b.like(h, d.values*d.valueDim)
	o.aLog, o.shift = b.param(path+"A_log", d.values), b.param(path+"dt_bias", d.values)
	b.do(o)
	b.gateNorm(b.whole(o.dst, d.valueDim), z, path+"norm", false, false)
	return o.dst
}

// groupedDelta adds the inputs of Qwen3-Next: in_proj_qkvz has for each key head q,
// k, and v and z of its value heads; in_proj_ba b and a.
func (b *builder) groupedDelta(h reg, path string, d deltaNet, o *deltaScan) (qkv reg, z heads) {
	each := d.values / d.keys
	step := 2*d.keyDim + 2*each*d.valueDim
	p := b.linear(h, path+"in_proj_qkvz", d.keys*step, false)
	ba := b.linear(h, path+"in_proj_ba", 2*d.values, false)
	key := func(at int) heads { return heads{reg: p, n: d.keys, dim: d.keyDim, base: at, step: step} }
	value := func(at int) heads {
		return heads{reg: p, n: d.values, dim: d.valueDim, base: at, group: each, groupStep: step}
	}
	o.beta = heads{reg: ba, n: d.values, dim: 1, group: each, groupStep: 2 * each}
	o.step = o.beta
	o.step.base = each
	return b.arrange(key(0), key(d.keyDim), value(2*d.keyDim)), value(2*d.keyDim + each*d.valueDim)
}
