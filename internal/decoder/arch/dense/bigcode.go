package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// bigcodeArch is StarCoder (Li et al., arXiv 2305.06161): GPT-2 with one key head
// for all query heads.
func bigcodeArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GPTBigCodeForCausalLM"}, Type: "gpt_bigcode", GGUF: bigcodeGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			gptKeys(f, "n_inner")
			multi := f.Bool("multi_query", true)
			delete(f.Values, "num_key_value_heads")
			if multi {
				f.Otherwise("num_key_value_heads", 1)
			}
			spec.ReadShape(c, f, 0, 0)
			c.BOS = spec.Within(c.BOS, c.Vocab)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			if f.Bool("add_cross_attention", false) {
				f.Unsupported("add_cross_attention", "true", "false")
			}
			scaled := f.Bool("scale_attn_weights", true)
			act := spec.ReadActivation(f, "activation_function", "gelu_pytorch_tanh")
			c.Names = gptNames()
			c.Head.Norm = spec.LayerNorm
			return func(b *spec.Builder) {
				scale := 1.0
				if scaled {
					scale = program.HeadScale(c.HeadDim)
				}
				h := b.Norm(program.Stream, "ln_1", spec.LayerNorm)
				s := program.Attention{Scale: scale}
				if multi {
					s.Q, s.K, s.V = fusedQKV(b, h, "attn.c_attn", true)
				} else {
					s.Q, s.K, s.V = headwiseQKV(b, h, "attn.c_attn", true)
				}
				b.AddLinear(program.Stream, b.Attend(s), "attn.c_proj", true)
				h = b.Norm(program.Stream, "ln_2", spec.LayerNorm)
				b.TwoLayerMLP(program.Stream, h, "mlp.c_fc", "mlp.c_proj", c.Intermediate, act, true)
			}
		},
	}
}

// bigcodeGGUF: the engine wants all queries, then keys, then values, as they are
// with one key head.
func bigcodeGGUF() *decoder.GGUF {
	g := gpt2GGUF()
	g.Name = "starcoder"
	g.Check = func(m *decoder.Model) error {
		return m.Require(map[string]any{"scale_attn_weights": true, "multi_query": true})
	}
	return g
}
