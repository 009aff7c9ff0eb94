package decoder

// Parts of blocks that many architectures share.

// hubExperts are the paths of experts in most mixtures, wExperts those of Mixtral
// and some others.
var (
	hubExperts = expertNames{gate: "mlp.experts.%d.gate_proj", up: "mlp.experts.%d.up_proj", down: "mlp.experts.%d.down_proj"}
	wExperts   = expertNames{gate: "block_sparse_moe.experts.%d.w1", up: "block_sparse_moe.experts.%d.w3", down: "block_sparse_moe.experts.%d.w2"}
)

// gatedOf adds a gated MLP of a width, its output added to dst.
func (b *builder) gatedOf(dst, h reg, path string, width int, act activation, bias bool) {
	gate := b.linear(h, path+"gate_proj", width, bias)
	up := b.linear(h, path+"up_proj", width, bias)
	b.addLinear(dst, b.gated(act, gate, up), path+"down_proj", bias)
}

// plainBlock is a block of Llama, after the flags of the configuration.
func plainBlock(act activation) func(*builder) {
	return func(b *builder) {
		h := b.norm(stream, "input_layernorm", normSpec{})
		b.plainAttention(h)
		h = b.norm(stream, "post_attention_layernorm", normSpec{})
		b.gatedMLP(stream, h, "mlp.", act)
	}
}

// plainAttention adds attention and its output: separate q, k, v, with norms of
// q and k where the configuration has them, rotation, and a window.
func (b *builder) plainAttention(h reg) { b.rotatedAttention(h, b.c.Rope) }

// rotatedAttention is plainAttention with a rotation, or without one if it is nil.
func (b *builder) rotatedAttention(h reg, rope *Rope) {
	c := b.c
	q, k, v := b.qkv(h)
	if c.QKNorm {
		b.headNorm(q, "self_attn.q_norm", normSpec{}, false)
		b.headNorm(k, "self_attn.k_norm", normSpec{}, false)
	} else {
		b.absent("self_attn.q_norm.weight", "self_attn.k_norm.weight")
	}
	b.rotate(q, rope)
	b.rotate(k, rope)
	a := b.attend(attention{q: q, k: k, v: v, window: c.Window(b.Index)})
	b.addLinear(stream, a, "self_attn.o_proj", c.OBias)
}

// qkv adds the linears of queries, keys and values, each its own.
func (b *builder) qkv(h reg) (q, k, v heads) {
	c := b.c
	qr := b.linear(h, "self_attn.q_proj", c.QueryWidth(), c.QKVBias)
	kr := b.linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias)
	vr := b.linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias)
	return b.whole(qr, c.HeadDim), b.whole(kr, c.HeadDim), b.whole(vr, c.HeadDim)
}

// gatedMLP adds a gated MLP of Intermediate, its output added to dst.
func (b *builder) gatedMLP(dst, h reg, path string, act activation) {
	b.gatedOf(dst, h, path, b.c.Intermediate, act, b.c.MLPBias)
}

// mlpOutput adds a gated MLP of Intermediate and returns its output.
func (b *builder) mlpOutput(h reg, path string, act activation) reg {
	c := b.c
	gate := b.linear(h, path+"gate_proj", c.Intermediate, c.MLPBias)
	up := b.linear(h, path+"up_proj", c.Intermediate, c.MLPBias)
	return b.linear(b.gated(act, gate, up), path+"down_proj", c.Hidden, c.MLPBias)
}

// gatedShared adds an expert for all tokens, weighted by the sigmoid of one logit.
func (b *builder) gatedShared(h reg, path, gate string, width int, act activation) {
	y := b.zeros(b.width(h))
	b.gatedOf(y, h, path, width, act, false)
	b.weigh(y, h, gate)
	b.add(stream, y, 1)
}
