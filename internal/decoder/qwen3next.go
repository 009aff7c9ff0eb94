package decoder

import "slices"

// qwen3NextArch is Qwen3-Next: gated delta rules, gated attention in every fourth
// layer, experts with a shared one.
func qwen3NextArch() *Architecture {
	return &Architecture{
		Classes: []string{"Qwen3NextForCausalLM"}, Type: "qwen3_next",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 2, 256)
			c.QKNorm = true
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.25)
			d := deltaNet{
				keys: f.size("linear_num_key_heads", 16), values: f.size("linear_num_value_heads", 32),
				keyDim: f.size("linear_key_head_dim", 128), valueDim: f.size("linear_value_head_dim", 128),
				conv: f.size("linear_conv_kernel_dim", 4),
			}
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
			c.Experts = f.int("num_experts", 512)
			top := 0
			if c.Experts > 0 {
				top = c.topExperts(f, "num_experts_per_tok", 10)
			}
			width, shared := f.size("moe_intermediate_size", 512), f.size("shared_expert_intermediate_size", 512)
			step, dense := f.size("decoder_sparse_step", 1), f.ints("mlp_only_layers")
			renormalize := f.bool("norm_topk_prob", true)
			act := readActivation(f, "hidden_act", "silu")
			d.act = act
			c.head.norm = normSpec{plusOne: true}
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{plusOne: true})
				if types[b.p.Index] == linearAttention {
					b.addLinear(stream, b.deltaNet(h, "linear_attn.", d), "linear_attn.out_proj", false)
				} else {
					b.gatedAttention(h)
				}
				h = b.norm(stream, "post_attention_layernorm", normSpec{plusOne: true})
				if slices.Contains(dense, b.p.Index) || c.Experts == 0 || (b.p.Index+1)%step != 0 {
					b.gatedMLP(stream, h, "mlp.", act)
					return
				}
				r := b.router(h, "mlp.gate", c.Experts, top, renormalize)
				b.add(stream, b.experts(h, r, c.Experts, width, act, hubExperts), 1)
				b.gatedShared(h, "mlp.shared_expert.", "mlp.shared_expert_gate.weight", shared, act)
			}
		},
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
	act                                  activation
}

// deltaNet adds a mixer and returns what its output layer reads. in_proj_qkvz has
// for each key head q, k, and v and z of its value heads; in_proj_ba b and a.
func (b *builder) deltaNet(h reg, path string, d deltaNet) reg {
	each := d.values / d.keys
	step := 2*d.keyDim + 2*each*d.valueDim
	p := b.linear(h, path+"in_proj_qkvz", d.keys*step, false)
	ba := b.linear(h, path+"in_proj_ba", 2*d.values, false)
	key := func(at int) heads { return heads{reg: p, n: d.keys, dim: d.keyDim, base: at, step: step} }
	value := func(at int) heads {
		return heads{reg: p, n: d.values, dim: d.valueDim, base: at, group: each, groupStep: step}
	}
	qkv := b.arrange(key(0), key(d.keyDim), value(2*d.keyDim))
	qkv = b.conv(qkv, 0, b.width(qkv), d.conv, path+"conv1d", false, d.act)
	y := b.like(h, d.values*d.valueDim)
	b.do(&deltaScan{
		dst: y, qkv: qkv, ba: ba, keys: d.keys, values: d.values, keyDim: d.keyDim, valueDim: d.valueDim,
		aLog: b.param(path+"A_log", d.values), shift: b.param(path+"dt_bias", d.values),
	})
	b.gateNorm(b.whole(y, d.valueDim), value(2*d.keyDim+each*d.valueDim), path+"norm", false, false)
	return y
}
