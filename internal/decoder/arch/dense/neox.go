package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// neoxArch is GPT-NeoX (Black et al., arXiv 2204.06745) and Pythia: q, k and v of
// each head side by side, rotation of a part of each head, attention and MLP in
// parallel or one after the other.
func neoxArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"GPTNeoXForCausalLM"}, Type: "gpt_neox", GGUF: neoxGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			f.Alias("rope_theta", "rotary_emb_base")
			f.Alias("partial_rotary_factor", "rotary_pct")
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("layer_norm_eps", 1e-5)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.25)
			bias := f.Bool("attention_bias", true)
			c.QKVBias, c.OBias, c.MLPBias = bias, bias, true
			parallel := f.Bool("use_parallel_residual", true)
			act := spec.ReadActivation(f, "hidden_act", "gelu")
			c.Names = decoder.Names{
				Embedding: "gpt_neox.embed_in.weight", FinalNorm: "gpt_neox.final_layer_norm.weight",
				Head: "embed_out.weight", Block: "gpt_neox.layers.%d.",
			}
			c.Head.Norm = spec.LayerNorm
			return func(b *spec.Builder) { neoxBlock(b, parallel, act) }
		},
	}
}

func neoxBlock(b *spec.Builder, parallel bool, act program.Activation) {
	c := b.Config
	h := b.Norm(program.Stream, "input_layernorm", spec.LayerNorm)
	var m program.Reg
	if parallel {
		m = b.Norm(program.Stream, "post_attention_layernorm", spec.LayerNorm)
	}
	q, k, v := headwiseQKV(b, h, "attention.query_key_value", c.QKVBias)
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "attention.dense", c.OBias)
	if !parallel {
		m = b.Norm(program.Stream, "post_attention_layernorm", spec.LayerNorm)
	}
	b.TwoLayerMLP(program.Stream, m, "mlp.dense_h_to_4h", "mlp.dense_4h_to_h", c.Intermediate, act, c.MLPBias)
}

// headwiseQKV adds a linear whose output has q, k and v of the first head, then
// of the second, and so on.
func headwiseQKV(b *spec.Builder, h program.Reg, path string, bias bool) (q, k, v program.Heads) {
	c := b.Config
	r := b.Linear(h, path, 3*c.QueryWidth(), bias)
	part := func(i int) program.Heads {
		return program.Heads{Reg: r, N: c.Heads, Dim: c.HeadDim, Base: i * c.HeadDim, Step: 3 * c.HeadDim}
	}
	return part(0), part(1), part(2)
}

// neoxGGUF: the engine has the approximated GELU for the exact one.
func neoxGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "gptneox", LayerNorm: true, OwnHead: true, Activation: spec.ExactGELU("hidden_act"),
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_eps", "num_key_value_heads": "", "head_dim": "", "rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct",
		},
		Keys: []decoder.GGUFKey{{Name: "use_parallel_residual", Config: "use_parallel_residual"}},
		Block: []decoder.GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "attention.query_key_value", GGUF: "attn_qkv", Rows: spec.SplitHeads},
			{HF: "attention.dense", GGUF: "attn_output"}, {HF: "post_attention_layernorm", GGUF: "ffn_norm"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": true}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}
