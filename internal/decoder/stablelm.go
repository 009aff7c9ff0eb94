package decoder

// stablelmArch is StableLM 2 (arXiv 2402.17834): Llama's block with LayerNorms, a
// quarter of each head rotated, and in some a norm for each head of q and k, or
// attention and MLP side by side.
func stablelmArch() *Architecture {
	return &Architecture{
		Classes: []string{"StableLmForCausalLM"}, Type: "stablelm", GGUF: stablelmGGUF(),
		read: func(f *fields, c *Config) func(*builder) {
			c.readShape(f, 32, 0)
			c.NormEps = f.float("layer_norm_eps", 1e-5)
			c.QKVBias = f.bool("use_qkv_bias", false)
			c.QKNorm = f.bool("qk_layernorm", false)
			parallel := f.bool("use_parallel_residual", false)
			c.Rope = c.readPartialRope(f, fullAttention, 10000, 0.25)
			norm := normSpec{layer: true, bias: true}
			c.head.norm = norm
			act := readActivation(f, "hidden_act", "silu")
			return func(b *builder) {
				h := b.norm(stream, "input_layernorm", norm)
				q, k, v := b.qkv(h)
				if c.QKNorm {
					b.headNorms(q, stablelmQueryNorm, normSpec{layer: true})
					b.headNorms(k, stablelmKeyNorm, normSpec{layer: true})
				}
				b.rotate(q, c.Rope)
				b.rotate(k, c.Rope)
				a := b.attend(attention{q: q, k: k, v: v})
				b.addLinear(stream, a, "self_attn.o_proj", false)
				if !parallel {
					h = b.norm(stream, "post_attention_layernorm", norm)
				}
				b.gatedMLP(stream, h, "mlp.", act)
			}
		},
	}
}

// The norms of queries and keys are one tensor each, a row for each head.
const (
	stablelmQueryNorm = "self_attn.q_layernorm.norms.%d"
	stablelmKeyNorm   = "self_attn.k_layernorm.norms.%d"
)

func stablelmGGUF() *GGUF {
	return &GGUF{
		Name: "stablelm", LayerNorm: true, OwnHead: true, Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Flags: []GGUFFlag{
			{Config: "use_qkv_bias", Tensors: []string{"attn_q.bias"}}, {Config: "qk_layernorm", Tensors: []string{"attn_q_norm.weight"}},
			{Config: "use_parallel_residual", Tensors: []string{"ffn_norm.weight"}, Absent: true},
		},
		Block: joined(ggufNorm("input_layernorm", "attn_norm"), ggufQKV(false), []GGUFName{
			{HF: stablelmQueryNorm, GGUF: "attn_q_norm"}, {HF: stablelmKeyNorm, GGUF: "attn_k_norm"}, ggufOutput,
		}, ggufNorm("post_attention_layernorm", "ffn_norm"), ggufGated),
		Check: (*Model).requireHidden,
	}
}
