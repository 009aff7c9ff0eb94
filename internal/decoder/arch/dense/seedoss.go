package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
)

// seedOSSArch is Seed-OSS: Llama's block with biases of q, k and v, and of the
// others by configuration.
func seedOSSArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"SeedOssForCausalLM"}, Type: "seed_oss", GGUF: seedOSSGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 8, 128)
			c.QKVBias = f.Bool("attention_bias", true)
			c.OBias = f.Bool("attention_out_bias", false)
			c.MLPBias = f.Bool("mlp_bias", false)
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			return spec.PlainBlock(spec.ReadActivation(f, "hidden_act", "silu"))
		},
	}
}

func seedOSSGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name:  "seed_oss",
		Flags: []decoder.GGUFFlag{{Config: "attention_bias", Tensors: []string{"attn_q.bias"}}},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "post_attention_norm"), spec.GGUFGated),
		Check: func(m *decoder.Model) error {
			return m.Require(map[string]any{"mlp_bias": false, "attention_out_bias": false})
		},
	}
}
