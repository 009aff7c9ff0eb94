package recurrent

import (
	"math"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// minimaxArch is MiniMax-Text-01 (arXiv 2501.08313): linear attention with decay,
// full attention in some layers, and a residual stream that is normalized itself.
func minimaxArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"MiniMaxForCausalLM"}, Type: "minimax",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 0)
			c.NormEps = f.Float("rms_norm_eps", 1e-5)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 1e6)
			types := spec.LayerTypes(c, f, func(i int) string {
				if i%2 == 0 {
					return linearAttention
				}
				return spec.FullAttention
			})
			checkTypes(f, "layer_types", types, linearAttention, spec.FullAttention)
			window, block := spec.SlidingWindow(f, 0), f.Size("block_size", 256)
			c.Experts = f.Int("num_local_experts", 8)
			top := spec.TopExperts(c, f, "num_experts_per_tok", 2)
			pair := func(kind string) [2]float64 {
				return [2]float64{f.Float(kind+"_alpha_factor", 1), f.Float(kind+"_beta_factor", 1)}
			}
			full, linear, mlp := pair("full_attn"), pair("linear_attn"), pair("mlp")
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := normedStream(b, "input_layernorm")
				if types[b.Index] == linearAttention {
					y := lightning(b, h, block, act)
					b.Scale(program.Stream, linear[0])
					b.Add(program.Stream, y, linear[1])
				} else {
					q, k, v := b.QKV(h)
					b.Rotate(q, c.Rope)
					b.Rotate(k, c.Rope)
					y := b.Linear(b.Attend(program.Attention{Q: q, K: k, V: v, Window: window}), "self_attn.o_proj", c.Hidden, false)
					b.Scale(program.Stream, full[0])
					b.Add(program.Stream, y, full[1])
				}
				h = normedStream(b, "post_attention_layernorm")
				r := b.Router(h, "block_sparse_moe.gate", c.Experts, top, true)
				y := b.Experts(h, r, c.Experts, c.Intermediate, act, spec.WExperts)
				b.Scale(program.Stream, mlp[0])
				b.Add(program.Stream, y, mlp[1])
			}
		},
	}
}

// normedStream normalizes the stream and returns a register with the same.
func normedStream(b *spec.Builder, path string) program.Reg {
	h := b.Norm(program.Stream, path, program.Norm{})
	b.Overwrite(program.Stream, h)
	return h
}

// lightning adds linear attention; the result is that of its output layer.
func lightning(b *spec.Builder, h program.Reg, block int, act program.Activation) program.Reg {
	c := b.Config
	r := b.Activate(act, b.Linear(h, "self_attn.qkv_proj", 3*c.QueryWidth(), false))
	part := func(i int) program.Heads {
		return program.Heads{Reg: r, N: c.Heads, Dim: c.HeadDim, Base: i * c.HeadDim, Step: 3 * c.HeadDim}
	}
	const path = "self_attn."
	s := program.DecayScan{
		Q: part(0), K: part(1), V: part(2), Block: block,
		Stored: b.Optional(path+"slope_rate", c.Heads, 1, 1), ToQuery: b.Optional(path+"query_decay", c.Heads, block, 1),
		ToEnd: b.Optional(path+"key_decay", c.Heads, block, 1), Pairs: b.Optional(path+"diagonal_decay", 1, c.Heads, block, block),
	}
	factor := 1 - float64(b.Index)/(float64(c.Layers-1)+1e-5) + 1e-5
	for i := range c.Heads {
		s.Slopes = append(s.Slopes, math.Exp2(-8*float64(i+1)/float64(c.Heads))*factor)
	}
	gate := b.Linear(h, "self_attn.output_gate", c.QueryWidth(), false)
	y := b.DecayScan(s)
	b.NormSelf(y, "self_attn.norm", program.Norm{Eps: 1e-6})
	whole := program.Heads{Reg: y, N: 1, Dim: c.QueryWidth()}
	z := whole
	z.Reg = gate
	b.Gate(whole, z, program.Sigmoid)
	return b.Linear(y, "self_attn.out_proj", c.Hidden, false)
}
