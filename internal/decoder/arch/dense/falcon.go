package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// falconArch is Falcon (Almazrouei et al., arXiv 2311.16867). The first ones have
// one key head for all (7B), or ALiBi and as many key heads as query heads (RW);
// the later ones groups of heads and a norm each for attention and MLP (40B, 180B).
func falconArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"FalconForCausalLM"}, Type: "falcon", GGUF: falconGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Alias("hidden_size", "n_embed")
			f.Alias("intermediate_size", "ffn_hidden_size")
			f.Otherwise("intermediate_size", 4*f.Int("hidden_size", 0))
			f.Otherwise("tie_word_embeddings", true)
			s := falconSpec{grouped: f.Bool("new_decoder_architecture", false), parallel: f.Bool("parallel_attn", true)}
			switch multi := f.Bool("multi_query", true); {
			case s.grouped:
				f.Alias("num_key_value_heads", "num_kv_heads")
			case multi:
				f.Otherwise("num_key_value_heads", 1)
			default:
				s.headwise = true
			}
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("layer_norm_epsilon", 1e-5)
			bias := f.Bool("bias", false)
			c.QKVBias, c.OBias, c.MLPBias = bias, bias, bias
			s.norms = 1
			if s.grouped {
				s.norms = f.Int("num_ln_in_parallel_attn", 2)
				s.parallel = true
			}
			if f.Bool("alibi", false) {
				s.slopes = program.ALiBiSlopes(min(c.Heads, decoder.MaxHeads))
			} else {
				c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			}
			s.act = spec.ReadActivation(f, "activation", "gelu")
			c.Names = bloomNames()
			c.Names.EmbedNorm = ""
			c.Head.Norm = spec.LayerNorm
			return func(b *spec.Builder) { falconBlock(b, s) }
		},
	}
}

// falconSpec is which of Falcon's variants a model is.
type falconSpec struct {
	grouped  bool // [q, ..., k, v] by key head
	headwise bool // q, k, v by head
	parallel bool
	norms    int
	slopes   []float64
	act      program.Activation
}

func falconBlock(b *spec.Builder, s falconSpec) {
	c := b.Config
	var h, m program.Reg
	if s.norms == 2 {
		h, m = b.Norm(program.Stream, "ln_attn", spec.LayerNorm), b.Norm(program.Stream, "ln_mlp", spec.LayerNorm)
	} else {
		h = b.Norm(program.Stream, "input_layernorm", spec.LayerNorm)
		m = h
	}
	q, k, v := falconQKV(b, h, s)
	var u program.Reg
	const in = "mlp.dense_h_to_4h"
	if s.parallel {
		u = b.Linear(m, in, c.Intermediate, c.MLPBias)
	}
	if c.Rope != nil {
		b.Rotate(q, c.Rope)
		b.Rotate(k, c.Rope)
	}
	a := b.Attend(program.Attention{Q: q, K: k, V: v, Slopes: s.slopes, BiasBF16: true})
	b.AddLinear(program.Stream, a, "self_attention.dense", c.OBias)
	if !s.parallel {
		u = b.Linear(b.Norm(program.Stream, "post_attention_layernorm", spec.LayerNorm), in, c.Intermediate, c.MLPBias)
	}
	b.AddLinear(program.Stream, b.Activate(s.act, u), "mlp.dense_4h_to_h", c.MLPBias)
}

func falconQKV(b *spec.Builder, h program.Reg, s falconSpec) (q, k, v program.Heads) {
	c, path := b.Config, "self_attention.query_key_value"
	if s.headwise {
		return headwiseQKV(b, h, path, c.QKVBias)
	}
	// All query heads, one key and one value head; with groups once for each.
	r := b.Linear(h, path, c.QueryWidth()+2*c.KVWidth(), c.QKVBias)
	group := c.Heads / c.KVHeads
	step := (group + 2) * c.HeadDim
	q = program.Heads{Reg: r, N: c.Heads, Dim: c.HeadDim, Group: group, GroupStep: step}
	k = program.Heads{Reg: r, N: c.KVHeads, Dim: c.HeadDim, Base: group * c.HeadDim, Step: step}
	v = program.Heads{Reg: r, N: c.KVHeads, Dim: c.HeadDim, Base: (group + 1) * c.HeadDim, Step: step}
	return q, k, v
}

// falconGGUF: queries come first, then keys, then values; the engine has the
// approximated GELU for the exact one.
func falconGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "falcon", LayerNorm: true, Context: 2048, Activation: spec.ExactGELU("activation"),
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "num_kv_heads", "head_dim": "", "intermediate_size": "ffn_hidden_size",
		},
		Flags: []decoder.GGUFFlag{
			{Config: "new_decoder_architecture", Tensors: []string{"attn_norm_2.weight"}},
			{Config: "multi_query", Tensors: []string{"attn_norm_2.weight"}, Absent: true},
		},
		Constants: map[string]any{"parallel_attn": true, "bias": false, "alibi": false},
		Block: []decoder.GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "ln_mlp", GGUF: "attn_norm"}, {HF: "ln_attn", GGUF: "attn_norm_2"},
			{HF: "self_attention.query_key_value", GGUF: "attn_qkv", Rows: spec.SplitKeyHeads}, {HF: "self_attention.dense", GGUF: "attn_output"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"bias": false, "alibi": false, "parallel_attn": true}); err != nil {
				return err
			}
			grouped := m.Value("new_decoder_architecture") == true
			if grouped && m.Value("num_ln_in_parallel_attn") != 2 || !grouped && m.KVHeads != 1 {
				return decoder.Refuse("multi_query", "such heads", "falcon")
			}
			return m.RequireHidden()
		},
	}
}
