package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// gptjArch is GPT-J (Wang and Komatsuzaki, 2021): attention and MLP in parallel
// behind one LayerNorm, rotation of neighbours in a part of each head.
func gptjArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GPTJForCausalLM"}, Type: "gptj",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Otherwise("tie_word_embeddings", false)
			gptKeys(f, "n_inner")
			spec.ReadShape(c, f, 0, 0)
			c.BOS = spec.Within(c.BOS, c.Vocab)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			c.MLPBias = true
			dim := c.HeadDim
			if !f.Null("rotary_dim") || f.Absent("rotary_dim") {
				dim = f.Int("rotary_dim", 64)
			}
			c.Rope = &program.Rope{Theta: 10000, Dim: dim, Interleaved: true}
			act := spec.ReadActivation(f, "activation_function", "gelu_new")
			c.Names = gptNames()
			c.Names.Positions = ""
			c.Head = decoder.HeadSpec{Norm: spec.LayerNorm, Bias: true}
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "ln_1", spec.LayerNorm)
				q := b.Whole(b.Linear(h, "attn.q_proj", c.QueryWidth(), false), c.HeadDim)
				k := b.Whole(b.Linear(h, "attn.k_proj", c.QueryWidth(), false), c.HeadDim)
				v := b.Whole(b.Linear(h, "attn.v_proj", c.QueryWidth(), false), c.HeadDim)
				u := b.Linear(h, "mlp.fc_in", c.Intermediate, true)
				b.Rotate(q, c.Rope)
				b.Rotate(k, c.Rope)
				b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "attn.out_proj", false)
				b.AddLinear(program.Stream, b.Activate(act, u), "mlp.fc_out", true)
			}
		},
	}
}
