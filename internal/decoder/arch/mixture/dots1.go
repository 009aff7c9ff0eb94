package mixture

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// dots1Arch is dots.llm1 (arXiv 2506.05767): norms of q and k, and the experts of
// DeepSeek-V3.
func dots1Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Dots1ForCausalLM"}, Type: "dots1", GGUF: dots1GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 32, 0)
			c.QKNorm = true
			c.QKVBias = f.Bool("attention_bias", false)
			c.OBias = c.QKVBias
			c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
			w := spec.SlidingWindow(f, 4096)
			spec.SetWindows(c, f, spec.LayerTypes(c, f, spec.EveryLayer(w, f.Int("max_window_layers", 62))), w)
			s := ReadDeepseekExperts(c, f, DeepseekExperts{Experts: 128, Top: 6, Shared: 2, Width: 1408, Factor: 1, Groups: 1, TopGroups: 1})
			s.Router.Renormalize = f.Bool("norm_topk_prob", false)
			act := spec.ReadActivation(f, "hidden_act", "silu")
			return func(b *spec.Builder) {
				h := b.Norm(program.Stream, "input_layernorm", program.Norm{})
				b.PlainAttention(h)
				h = b.Norm(program.Stream, "post_attention_layernorm", program.Norm{})
				deepseekMLP(b, h, s, act)
			}
		},
	}
}

// dots1GGUF: the engine has no windows, and as many heads of keys as of queries.
func dots1GGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "dots1", Keys: deepseekKeys(), Fixed: sigmoidGate, Constants: map[string]any{"sliding_window": nil, "attention_bias": false},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), spec.GGUFQKNorms, []decoder.GGUFName{spec.GGUFOutput},
			spec.GGUFNorm("post_attention_layernorm", "ffn_norm"), deepseekNames()),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"attention_bias": false}); err != nil {
				return err
			}
			if m.KVHeads != m.Heads {
				return decoder.Refuse("num_key_value_heads", m.KVHeads, "dots1")
			}
			return requireShared(m)
		},
	}
}
