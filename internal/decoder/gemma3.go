package decoder

import "math"

// gemma3Arch is the text model of Gemma 3 (arXiv 2503.19786): norms before and
// after attention and MLP with gains of 1+w, norms of q and k, GeGLU, five layers
// with a window for each with full attention, and a rotation for either.
func gemma3Arch() *Architecture {
	return &Architecture{
		Classes: []string{"Gemma3ForCausalLM"}, Type: "gemma3_text",
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 4, 256)
			c.Tied = f.bool("tie_word_embeddings", true)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.embed.scale = math.Sqrt(float64(c.Hidden))
			c.head = headSpec{norm: normSpec{plusOne: true}, cap: f.float("final_logit_softcapping", 0)}
			pattern := f.size("sliding_window_pattern", f.size("_sliding_window_pattern", 6))
			types := c.layerTypes(f, func(i int) string {
				if (i+1)%pattern == 0 {
					return fullAttention
				}
				return slidingAttention
			})
			c.setWindows(f, types, slidingWindow(f, 4096))
			c.Rope = c.readRope(f, fullAttention, 1e6)
			local := c.localRope(f)
			scale := 1 / math.Sqrt(f.float("query_pre_attn_scalar", 256))
			cap := f.float("attn_logit_softcapping", 0)
			act := readActivation(f, "hidden_activation", "gelu_pytorch_tanh")
			return func(b *builder) {
				rope := c.Rope
				if c.Window(b.p.Index) > 0 {
					rope = local
				}
				b.gemma3Block(rope, scale, cap, act)
			}
		},
	}
}

// localRope is the rotation of layers with a window: a base of its own, no
// scaling.
func (c *Config) localRope(f *fields) *Rope {
	if p := f.object("rope_parameters"); p != nil && !p.null(slidingAttention) {
		return c.readRope(f, slidingAttention, 10000)
	}
	return &Rope{Theta: f.float("rope_local_base_freq", 10000), Dim: c.HeadDim}
}

func (b *builder) gemma3Block(rope *Rope, scale, cap float64, act activation) {
	c, gain := b.c, normSpec{plusOne: true}
	h := b.norm(stream, "input_layernorm", gain)
	q := b.linear(h, "self_attn.q_proj", c.QueryWidth(), c.QKVBias)
	k := b.linear(h, "self_attn.k_proj", c.KVWidth(), c.QKVBias)
	v := b.linear(h, "self_attn.v_proj", c.KVWidth(), c.QKVBias)
	qh, kh, vh := b.whole(q, c.HeadDim), b.whole(k, c.HeadDim), b.whole(v, c.HeadDim)
	b.headNorm(qh, "self_attn.q_norm", gain, false)
	b.headNorm(kh, "self_attn.k_norm", gain, false)
	b.rotate(qh, rope)
	b.rotate(kh, rope)
	a := b.attend(attention{q: qh, k: kh, v: vh, window: c.Window(b.p.Index), scale: scale, cap: cap})
	o := b.linear(a, "self_attn.o_proj", c.Hidden, c.OBias)
	b.normSelf(o, "post_attention_layernorm", gain)
	b.add(stream, o, 1)

	h = b.norm(stream, "pre_feedforward_layernorm", gain)
	y := b.zeros(c.Hidden)
	b.gatedMLP(y, h, "mlp.", act)
	b.normSelf(y, "post_feedforward_layernorm", gain)
	b.add(stream, y, 1)
}
