package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// optArch is OPT (Zhang et al., arXiv 2205.01068): learned positions from row 2
// on, LayerNorm with biases, ReLU. The one of 350M normalizes after attention and
// MLP, and its embedding is narrower than the stream.
func optArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"OPTForCausalLM"}, Type: "opt",
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Alias("intermediate_size", "ffn_dim")
			f.Otherwise("tie_word_embeddings", true)
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = 1e-5
			bias := f.Bool("enable_bias", true)
			norm := program.Norm{Layer: true, Bias: true}
			if !f.Bool("layer_norm_elementwise_affine", true) {
				norm = program.Norm{Layer: true, Plain: true}
			}
			before := f.Bool("do_layer_norm_before", true)
			act := spec.ReadActivation(f, "activation_function", "relu")
			quiet := readQuiet(f, c)
			c.Names = decoder.Names{
				Embedding: "model.decoder.embed_tokens.weight", FinalNorm: "model.decoder.final_layer_norm.weight",
				Head: "lm_head.weight", Block: "model.decoder.layers.%d.", Positions: "model.decoder.embed_positions.weight",
			}
			c.Embed.Offset = 2
			if w := f.Int("word_embed_proj_dim", c.Hidden); w != c.Hidden {
				c.Embed.Width = w
				c.Names.ProjectIn, c.Names.ProjectOut = "model.decoder.project_in.weight", "model.decoder.project_out.weight"
			}
			c.Head = decoder.HeadSpec{Norm: norm, None: !before || f.Bool("_remove_final_layer_norm", false)}
			return func(b *spec.Builder) { optBlock(b, norm, before, bias, act, quiet) }
		},
	}
}

func optBlock(b *spec.Builder, norm program.Norm, before, bias bool, act program.Activation, quiet quietAttention) {
	c := b.Config
	const first, second = "self_attn_layer_norm", "final_layer_norm"
	var h program.Reg
	if before {
		h = b.Norm(program.Stream, first, norm)
	} else {
		h = b.Copied(program.Stream)
	}
	q := b.Linear(h, "self_attn.q_proj", c.Hidden, bias)
	k := b.Linear(h, "self_attn.k_proj", c.Hidden, bias)
	v := b.Linear(h, "self_attn.v_proj", c.Hidden, bias)
	a := b.Attend(program.Attention{Q: b.Whole(q, c.HeadDim), K: b.Whole(k, c.HeadDim), V: b.Whole(v, c.HeadDim), Clip: quiet.clip})
	quiet.gate(b, a, h)
	b.AddLinear(program.Stream, a, "self_attn.out_proj", bias)
	if before {
		h = b.Norm(program.Stream, second, norm)
	} else {
		b.NormSelf(program.Stream, first, norm)
		h = b.Copied(program.Stream)
	}
	b.TwoLayerMLP(program.Stream, h, "fc1", "fc2", c.Intermediate, act, bias)
	if !before {
		b.NormSelf(program.Stream, second, norm)
	}
}
