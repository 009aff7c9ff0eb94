package decoder

import "math"

// minimaxArch is MiniMax-Text-01 (arXiv 2501.08313): linear attention with decay,
// full attention in some layers, and a residual stream that is normalized itself.
func minimaxArch() *Architecture {
	return &Architecture{
		Classes: []string{"MiniMaxForCausalLM"}, Type: "minimax",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 8, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.Rope = c.readRope(f, fullAttention, 1e6)
			types := c.layerTypes(f, func(i int) string {
				if i%2 == 0 {
					return linearAttention
				}
				return fullAttention
			})
			checkTypes(f, "layer_types", types, linearAttention, fullAttention)
			window, block := slidingWindow(f, 0), f.size("block_size", 256)
			c.Experts = f.int("num_local_experts", 8)
			top := c.topExperts(f, "num_experts_per_tok", 2)
			pair := func(kind string) [2]float64 {
				return [2]float64{f.float(kind+"_alpha_factor", 1), f.float(kind+"_beta_factor", 1)}
			}
			full, linear, mlp := pair("full_attn"), pair("linear_attn"), pair("mlp")
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.normedStream("input_layernorm")
				if types[b.Index] == linearAttention {
					y := b.lightning(h, block, act)
					b.scale(stream, linear[0])
					b.add(stream, y, linear[1])
				} else {
					q, k, v := b.qkv(h)
					b.rotate(q, c.Rope)
					b.rotate(k, c.Rope)
					y := b.linear(b.attend(attention{q: q, k: k, v: v, window: window}), "self_attn.o_proj", c.Hidden, false)
					b.scale(stream, full[0])
					b.add(stream, y, full[1])
				}
				h = b.normedStream("post_attention_layernorm")
				r := b.router(h, "block_sparse_moe.gate", c.Experts, top, true)
				y := b.experts(h, r, c.Experts, c.Intermediate, act, wExperts)
				b.scale(stream, mlp[0])
				b.add(stream, y, mlp[1])
			}
		},
	}
}

// normedStream normalizes the stream and returns a register with the same.
func (b *builder) normedStream(path string) reg {
	h := b.norm(stream, path, normSpec{})
	b.overwrite(stream, h)
	return h
}

// lightning adds linear attention; the result is that of its output layer.
func (b *builder) lightning(h reg, block int, act activation) reg {
	c := b.c
	r := b.activate(act, b.linear(h, "self_attn.qkv_proj", 3*c.QueryWidth(), false))
	part := func(i int) heads {
		return heads{reg: r, n: c.Heads, dim: c.HeadDim, base: i * c.HeadDim, step: 3 * c.HeadDim}
	}
	const path = "self_attn."
	s := decayScan{
		q: part(0), k: part(1), v: part(2), block: block,
		stored: b.optional(path+"slope_rate", c.Heads, 1, 1), toQuery: b.optional(path+"query_decay", c.Heads, block, 1),
		toEnd: b.optional(path+"key_decay", c.Heads, block, 1), pairs: b.optional(path+"diagonal_decay", 1, c.Heads, block, block),
	}
	factor := 1 - float64(b.Index)/(float64(c.Layers-1)+1e-5) + 1e-5
	for i := range c.Heads {
		s.slopes = append(s.slopes, math.Exp2(-8*float64(i+1)/float64(c.Heads))*factor)
	}
	gate := b.linear(h, "self_attn.output_gate", c.QueryWidth(), false)
	y := b.decayScan(s)
	b.normSelf(y, "self_attn.norm", normSpec{eps: 1e-6})
	whole := heads{reg: y, n: 1, dim: c.QueryWidth()}
	z := whole
	z.reg = gate
	b.gate(whole, z, sigmoid)
	return b.linear(y, "self_attn.out_proj", c.Hidden, false)
}
