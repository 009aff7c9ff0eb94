package spec

import "github.com/golowbit/lowbit/internal/program"

// Parts of blocks that many architectures share.

// HubExperts are the paths of experts in most mixtures, WExperts those of Mixtral
// and some others.
var (
	HubExperts = program.ExpertNames{Gate: "mlp.experts.%d.gate_proj", Up: "mlp.experts.%d.up_proj", Down: "mlp.experts.%d.down_proj"}
	WExperts   = program.ExpertNames{Gate: "block_sparse_moe.experts.%d.w1", Up: "block_sparse_moe.experts.%d.w3", Down: "block_sparse_moe.experts.%d.w2"}
)

// GatedOf adds a gated MLP of a width, its output added to dst.
func (b *Builder) GatedOf(dst, h program.Reg, path string, width int, act program.Activation, bias bool) {
	gate := b.Linear(h, path+"gate_proj", width, bias)
	up := b.Linear(h, path+"up_proj", width, bias)
	b.AddLinear(dst, b.Gated(act, gate, up), path+"down_proj", bias)
}

// PlainBlock is a block of Llama, after the flags of the configuration.
func PlainBlock(act program.Activation) func(*Builder) {
	return func(b *Builder) {
		h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
		b.PlainAttention(h)
		h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
		b.GatedMLP(program.Stream, h, "mlp.", act)
	}
}

// PlainAttention adds attention and its output: separate q, k, v, with norms of
// q and k where the configuration has them, rotation, and a window.
func (b *Builder) PlainAttention(h program.Reg) { b.RotatedAttention(h, b.Config.Rope) }

// RotatedAttention is PlainAttention with a rotation, or without one if it is nil.
func (b *Builder) RotatedAttention(h program.Reg, rope *program.Rope) {
	c := b.Config
	q, k, v := b.QKV(h)
	if c.QKNorm {
		b.HeadNorm(q, "self_attn.q_norm", program.Norm{}, false)
		b.HeadNorm(k, "self_attn.k_norm", program.Norm{}, false)
	} else {
		b.Absent("self_attn.q_norm.weight", "self_attn.k_norm.weight")
	}
	b.Rotate(q, rope)
	b.Rotate(k, rope)
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
	b.AddLinear(program.Stream, a, "self_attn.o_proj", c.OBias)
}

// QKV adds the linears of queries, keys and values, each its own.
func (b *Builder) QKV(h program.Reg) (q, k, v program.Heads) {
	c := b.Config
	qr := b.Linear(h, "self_attn.q_proj", c.QueryWidth(), c.QKVBias)
	kr := b.Linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias)
	vr := b.Linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias)
	return b.Whole(qr, c.HeadDim), b.Whole(kr, c.HeadDim), b.Whole(vr, c.HeadDim)
}

// GatedMLP adds a gated MLP of Intermediate, its output added to dst.
func (b *Builder) GatedMLP(dst, h program.Reg, path string, act program.Activation) {
	b.GatedOf(dst, h, path, b.Config.Intermediate, act, b.Config.MLPBias)
}

// MLPOutput adds a gated MLP of Intermediate and returns its output.
func (b *Builder) MLPOutput(h program.Reg, path string, act program.Activation) program.Reg {
	c := b.Config
	gate := b.Linear(h, path+"gate_proj", c.Intermediate, c.MLPBias)
	up := b.Linear(h, path+"up_proj", c.Intermediate, c.MLPBias)
	return b.Linear(b.Gated(act, gate, up), path+"down_proj", c.Hidden, c.MLPBias)
}

// GatedShared adds an expert for all tokens, weighted by the sigmoid of one logit.
func (b *Builder) GatedShared(h program.Reg, path, gate string, width int, act program.Activation) {
	y := b.Zeros(b.Width(h))
	b.GatedOf(y, h, path, width, act, false)
	b.Weigh(y, h, gate)
	b.Add(program.Stream, y, 1)
}
