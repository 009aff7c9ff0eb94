package decoder

import "math"

// hunyuanArch is HunYuan's dense models: Llama's block with norms of q and k
// after the rotation.
func hunyuanArch() *Architecture {
	return &Architecture{
		Classes: []string{"HunYuanDenseV1ForCausalLM"}, Type: "hunyuan_v1_dense", GGUF: hunyuanGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 0, 0)
			c.NormEps = f.float("rms_norm_eps", 1e-5)
			c.QKVBias = f.bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			c.Rope = c.readHunyuanRope(f)
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", normSpec{})
				b.hunyuanAttention(h)
				h = b.norm(stream, "post_attention_layernorm", normSpec{})
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// readHunyuanRope reads a rotation in which "dynamic" with "alpha" is a fixed
// factor of the base (NTK-aware scaling), whatever the length.
func (c *Config) readHunyuanRope(f *fields) *Rope {
	r := c.readRope(f, fullAttention, 10000)
	alpha := 0.0
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.object(key); o != nil {
			alpha = o.float("alpha", alpha)
			f.take(o)
		}
	}
	if f.err != nil || r.scaling() != "dynamic" || alpha == 0 {
		return r
	}
	if alpha < 0 || r.Dim < 3 {
		f.fail("rope_scaling", "alpha %g and a rotary width of %d: want more than 0 and 2", alpha, r.Dim)
		return nil
	}
	r.Theta *= math.Pow(alpha, float64(r.Dim)/float64(r.Dim-2))
	r.Scaling = RopeScaling{}
	return r
}

func (b *builder) hunyuanAttention(h reg) {
	c := b.c
	q, k, v := b.qkv(h)
	b.rotate(q, c.Rope)
	b.rotate(k, c.Rope)
	b.headNorm(q, "self_attn.query_layernorm", normSpec{}, false)
	b.headNorm(k, "self_attn.key_layernorm", normSpec{}, false)
	b.addLinear(stream, b.attend(attention{q: q, k: k, v: v}), "self_attn.o_proj", c.OBias)
}

// hunyuanGGUF: the base of the rotation is the one that scaling gives.
func hunyuanGGUF() *GGUF {
	return &GGUF{
		Name: "hunyuan-dense", RopeFreqs: true, Flags: []GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{
			{HF: "self_attn.query_layernorm", GGUF: "attn_q_norm"}, {HF: "self_attn.key_layernorm", GGUF: "attn_k_norm"}, ggufOutput,
		}, ggufNorm("post_attention_layernorm", "ffn_norm"), ggufGated),
		Check: func(m *Model) error { return m.require(map[string]any{"attention_bias": false}) },
	}
}
