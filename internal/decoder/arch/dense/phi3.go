package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// phi3Arch is Phi-3 and Phi-4 (arXiv 2404.14219): Llama's block with q, k and v in
// one matrix, and gate and up in one, a part of each head rotated.
func phi3Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Phi3ForCausalLM"}, Type: "phi3", GGUF: phi3GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Missing("original_max_position_embeddings", 4096)
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			if s := scaling(c.Rope); f.Err == nil && s != "" && s != "longrope" {
				f.Unsupported("rope_scaling", s, "default, longrope")
			}
			w := f.Int("sliding_window", 0)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, 0)), w)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				q, k, v := fusedQKV(b, h, "self_attn.qkv_proj", false)
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				a := b.Attend(program.Attention{Q: q, K: k, V: v, Window: c.Window(b.Index)})
				b.AddLinear(program.Stream, a, "self_attn.o_proj", false)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				b.AddLinear(program.Stream, fusedGate(b, h, act), "mlp.down_proj", false)
			}
		},
	}
}

// scaling is the type of a rotation's scaling.
func scaling(r *program.Rope) string {
	if r == nil {
		return ""
	}
	return r.Scaling.Type
}

// fusedQKV adds one linear for queries, keys and values, one after the other.
func fusedQKV(b *spec.Builder, h program.Reg, path string, bias bool) (q, k, v program.Heads) {
	c := b.Config
	r := b.Linear(h, path, c.QueryWidth()+2*c.KVWidth(), bias)
	q = program.Heads{Reg: r, N: c.Heads, Dim: c.HeadDim}
	k = program.Heads{Reg: r, N: c.KVHeads, Dim: c.HeadDim, Base: c.QueryWidth()}
	v = program.Heads{Reg: r, N: c.KVHeads, Dim: c.HeadDim, Base: c.QueryWidth() + c.KVWidth()}
	return q, k, v
}

// fusedGate adds one linear for the gate and the other factor, and the product.
func fusedGate(b *spec.Builder, h program.Reg, act program.Activation) program.Reg {
	return b.GatedHalves(act, b.Linear(h, "mlp.gate_up_proj", 2*b.Config.Intermediate, false))
}

// phi3GGUF: q, k and v stay in one matrix, and gate and up.
func phi3GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "phi3", LongRope: true,
		Block: []decoder.GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "self_attn.qkv_proj", GGUF: "attn_qkv"}, spec.GGUFOutput,
			{HF: "post_attention_layernorm", GGUF: "ffn_norm"}, {HF: "mlp.gate_up_proj", GGUF: "ffn_up"},
			{HF: "mlp.down_proj", GGUF: "ffn_down"},
		},
		Check: (*decoder.Model).RequireHidden,
	}
}
