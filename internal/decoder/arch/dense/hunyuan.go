package dense

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// hunyuanArch is HunYuan's dense models: Llama's block with norms of q and k
// after the rotation.
func hunyuanArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"HunYuanDenseV1ForCausalLM"}, Type: "hunyuan_v1_dense", GGUF: hunyuanGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.QKNorm = true
			c.Rope = ReadHunyuanRope(c, f)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				HunyuanAttention(b, h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.GatedMLP(program.Stream, h, "mlp.", act)
			}
		},
	}
}

// ReadHunyuanRope reads a rotation in which "dynamic" with "alpha" is a fixed
// factor of the base (NTK-aware scaling), whatever the length.
func ReadHunyuanRope(c *decoder.Config, f *spec.Fields) *program.Rope {
	r := spec.ReadRope(c, f, spec.FullAttention, 10000)
	alpha := 0.0
	for _, key := range []string{"rope_scaling", "rope_parameters"} {
		if o := f.Object(key); o != nil {
			alpha = o.Float("alpha", alpha)
			f.Take(o)
		}
	}
	if f.Err != nil || scaling(r) != "dynamic" || alpha == 0 {
		return r
	}
	if alpha < 0 || r.Dim < 3 {
		f.Fail("rope_scaling", "alpha %g and a rotary width of %d: want more than 0 and 2", alpha, r.Dim)
		return nil
	}
	r.Theta *= math.Pow(alpha, float64(r.Dim)/float64(r.Dim-2))
	r.Scaling = program.RopeScaling{}
	return r
}

// HunyuanAttention adds attention whose q and k are normalized after the rotation.
func HunyuanAttention(b *spec.Builder, h program.Reg) {
	c := b.Config
	q, k, v := b.QKV(h)
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	b.HeadNorm(q, "self_attn.query_layernorm", program.Norm{}, false)
	b.HeadNorm(k, "self_attn.key_layernorm", program.Norm{}, false)
	b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.o_proj", c.OBias)
}

// hunyuanGGUF: the base of the rotation is the one that scaling gives.
func hunyuanGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "hunyuan-dense", RopeFreqs: true, Flags: []decoder.GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			{HF: "self_attn.query_layernorm", GGUF: "attn_q_norm"}, {HF: "self_attn.key_layernorm", GGUF: "attn_k_norm"}, spec.GGUFOutput,
		}, spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), spec.GGUFGated),
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"attention_bias": false}) },
	}
}
