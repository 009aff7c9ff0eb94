package dense

import (
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// phiArch is Phi-1, Phi-1.5 and Phi-2 (Gunasekar et al., arXiv 2306.11644):
// attention and MLP in parallel behind one LayerNorm, rotation of a part of each
// head, biases also in the head.
func phiArch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"PhiForCausalLM"}, Type: "phi", GGUF: phiGGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			spec.ReadShape(c, f, 0, 0)
			c.NormEps = f.Float("layer_norm_eps", 1e-5)
			c.Rope = spec.ReadPartialRope(c, f, spec.FullAttention, 10000, 0.5)
			c.QKVBias, c.OBias, c.MLPBias = true, true, true
			c.QKNorm = f.Bool("qk_layernorm", false)
			act := spec.ReadActivation(f, "hidden_act", "gelu_new")
			c.Names.FinalNorm = "model.final_layernorm.weight"
			c.Head = decoder.HeadSpec{Norm: spec.LayerNorm, Bias: true}
			return func(b *spec.Builder) { phiBlock(b, act) }
		},
	}
}

func phiBlock(b *spec.Builder, act program.Activation) {
	c := b.Config
	h := b.Norm(program.Stream, "input_layernorm", spec.LayerNorm)
	q := b.Whole(b.Linear(h, "self_attn.q_proj", c.QueryWidth(), true), c.HeadDim)
	k := b.Whole(b.Linear(h, "self_attn.k_proj", c.KVWidth(), true), c.HeadDim)
	v := b.Whole(b.Linear(h, "self_attn.v_proj", c.KVWidth(), true), c.HeadDim)
	u := b.Linear(h, "mlp.fc1", c.Intermediate, true)
	if c.QKNorm {
		b.HeadNorm(q, "self_attn.q_layernorm", spec.LayerNorm, false)
		b.HeadNorm(k, "self_attn.k_layernorm", spec.LayerNorm, false)
	}
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.dense", true)
	b.AddLinear(program.Stream, b.Activate(act, u), "mlp.fc2", true)
}

func phiGGUF() *decoder.GGUF {
	return &decoder.GGUF{
		Name: "phi2", LayerNorm: true, OwnHead: true, Activation: spec.GELU("hidden_act"), Rename: map[string]string{"rms_norm_eps": "layer_norm_eps"},
		Block: spec.Joined(spec.GGUFNorm("input_layernorm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			{HF: "self_attn.dense", GGUF: "attn_output"}, {HF: "mlp.fc1", GGUF: "ffn_up"}, {HF: "mlp.fc2", GGUF: "ffn_down"},
		}),
		Check: func(m *decoder.Model) error {
			if err := m.Require(map[string]any{"qk_layernorm": false}); err != nil {
				return err
			}
			return m.RequireHidden()
		},
	}
}
