package decoder

// falconArch is Falcon (Almazrouei et al., arXiv 2311.16867). The first ones have
// one key head for all (7B), or ALiBi and as many key heads as query heads (RW);
// the later ones groups of heads and a norm each for attention and MLP (40B, 180B).
func falconArch() *Architecture {
	return &Architecture{
		Classes: []string{"FalconForCausalLM"}, Type: "falcon", GGUF: falconGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			f.alias("hidden_size", "n_embed")
			f.alias("intermediate_size", "ffn_hidden_size")
			f.otherwise("intermediate_size", 4*f.int("hidden_size", 0))
			f.otherwise("tie_word_embeddings", true)
			s := falconSpec{grouped: f.bool("new_decoder_architecture", false), parallel: f.bool("parallel_attn", true)}
			switch multi := f.bool("multi_query", true); {
			case s.grouped:
				f.alias("num_key_value_heads", "num_kv_heads")
			case multi:
				f.otherwise("num_key_value_heads", 1)
			default:
				s.headwise = true
			}
			c.readShape(f, 0, 0)
			c.NormEps = f.float("layer_norm_epsilon", 1e-5)
			bias := f.bool("bias", false)
			c.QKVBias, c.OBias, c.MLPBias = bias, bias, bias
			s.norms = 1
			if s.grouped {
				s.norms = f.int("num_ln_in_parallel_attn", 2)
				s.parallel = true
			}
			if f.bool("alibi", false) {
				s.slopes = alibiSlopes(min(c.Heads, maxHeads))
			} else {
				c.Rope = c.readRope(f, fullAttention, 10000)
			}
			s.act = readActivation(f, "activation", "gelu")
			c.names = bloomNames()
			c.names.embedNorm = ""
			c.head.norm = layerNorm
			return func(b *builder) { b.falconBlock(s) }
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
	act      activation
}

func (b *builder) falconBlock(s falconSpec) {
	c := b.c
	var h, m reg
	if s.norms == 2 {
		h, m = b.norm(stream, "ln_attn", layerNorm), b.norm(stream, "ln_mlp", layerNorm)
	} else {
		h = b.norm(stream, "input_layernorm", layerNorm)
		m = h
	}
	q, k, v := b.falconQKV(h, s)
	var u reg
	const in = "mlp.dense_h_to_4h"
	if s.parallel {
		u = b.linear(m, in, c.Intermediate, c.MLPBias)
	}
	if c.Rope != nil {
		b.rotate(q, c.Rope)
		b.rotate(k, c.Rope)
	}
	a := b.attend(attention{q: q, k: k, v: v, slopes: s.slopes, biasBF16: true})
	b.addLinear(stream, a, "self_attention.dense", c.OBias)
	if !s.parallel {
		u = b.linear(b.norm(stream, "post_attention_layernorm", layerNorm), in, c.Intermediate, c.MLPBias)
	}
	b.addLinear(stream, b.activate(s.act, u), "mlp.dense_4h_to_h", c.MLPBias)
}

func (b *builder) falconQKV(h reg, s falconSpec) (q, k, v heads) {
	c, path := b.c, "self_attention.query_key_value"
	if s.headwise {
		return b.headwiseQKV(h, path, c.QKVBias)
	}
	// All query heads, one key and one value head; with groups once for each.
	r := b.linear(h, path, c.QueryWidth()+2*c.KVWidth(), c.QKVBias)
	group := c.Heads / c.KVHeads
	step := (group + 2) * c.HeadDim
	q = heads{reg: r, n: c.Heads, dim: c.HeadDim, group: group, groupStep: step}
	k = heads{reg: r, n: c.KVHeads, dim: c.HeadDim, base: group * c.HeadDim, step: step}
	v = heads{reg: r, n: c.KVHeads, dim: c.HeadDim, base: (group + 1) * c.HeadDim, step: step}
	return q, k, v
}

// falconGGUF: queries come first, then keys, then values; the engine has the
// approximated GELU for the exact one.
func falconGGUF() *GGUF {
	return &GGUF{
		Name: "falcon", LayerNorm: true, Context: 2048, Activation: exactGELU("activation"),
		Rename: map[string]string{
			"rms_norm_eps": "layer_norm_epsilon", "num_key_value_heads": "num_kv_heads", "head_dim": "", "intermediate_size": "ffn_hidden_size",
		},
		Flags: []GGUFFlag{
			{Config: "new_decoder_architecture", Tensors: []string{"attn_norm_2.weight"}},
			{Config: "multi_query", Tensors: []string{"attn_norm_2.weight"}, Absent: true},
		},
		Constants: map[string]any{"parallel_attn": true, "bias": false, "alibi": false},
		Block: []GGUFName{
			{HF: "input_layernorm", GGUF: "attn_norm"}, {HF: "ln_mlp", GGUF: "attn_norm"}, {HF: "ln_attn", GGUF: "attn_norm_2"},
			{HF: "self_attention.query_key_value", GGUF: "attn_qkv", Rows: splitKeyHeads}, {HF: "self_attention.dense", GGUF: "attn_output"},
			{HF: "mlp.dense_h_to_4h", GGUF: "ffn_up"}, {HF: "mlp.dense_4h_to_h", GGUF: "ffn_down"},
		},
		Check: func(m *Model) error {
			if err := m.require(map[string]any{"bias": false, "alibi": false, "parallel_attn": true}); err != nil {
				return err
			}
			grouped := m.Value("new_decoder_architecture") == true
			if grouped && m.Value("num_ln_in_parallel_attn") != 2 || !grouped && m.KVHeads != 1 {
				return refuse("multi_query", "such heads", "falcon")
			}
			return m.requireHidden()
		},
	}
}
