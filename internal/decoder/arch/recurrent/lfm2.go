package recurrent

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// Kinds of layers in "layer_types" beside those of attention.
const (
	linearAttention = "linear_attention"
	convolution     = "conv"
)

// lfm2Arch is LFM2 (Liquid AI, 2025): gated short convolutions and attention.
func lfm2Arch() *spec.Architecture {
	return &spec.Architecture{
		Classes: []string{"Lfm2ForCausalLM"}, Type: "lfm2", GGUF: lfm2GGUF(),
		Read: func(f *spec.Fields, c *decoder.Config) func(*spec.Builder) {
			l := readLFM2(c, f)
			return func(b *spec.Builder) {
				lfm2Mixer(b, l)
				lfm2MLP(b, b.Norm(program.Stream, "ffn_norm", program.Norm{}))
			}
		},
	}
}

// lfm2 is what the mixers of LFM2 are.
type lfm2 struct {
	types []string
	size  int // of the convolution
	bias  bool
}

func readLFM2(c *decoder.Config, f *spec.Fields) lfm2 {
	if !f.Null("block_ff_dim") {
		delete(f.Values, "intermediate_size")
		f.Alias("intermediate_size", "block_ff_dim")
	}
	f.Otherwise("tie_word_embeddings", f.Bool("tie_embedding", true))
	spec.ReadShape(c, f, 8, 0)
	c.NormEps = f.Float("norm_eps", 1e-5)
	c.QKNorm = true
	c.Rope = spec.ReadRope(c, f, spec.FullAttention, 10000)
	l := lfm2{size: f.Size("conv_L_cache", 3), bias: f.Bool("conv_bias", false)}
	full := f.Ints("full_attn_idxs")
	l.types = spec.LayerTypes(c, f, func(i int) string {
		if full == nil {
			return spec.FullAttention
		}
		for _, j := range full {
			if i == j {
				return spec.FullAttention
			}
		}
		return convolution
	})
	checkTypes(f, "layer_types", l.types, spec.FullAttention, convolution)
	if f.Bool("block_auto_adjust_ff_dim", true) {
		w := 2 * c.Intermediate / 3
		if !f.Null("block_ffn_dim_multiplier") || f.Absent("block_ffn_dim_multiplier") {
			w = int(f.Float("block_ffn_dim_multiplier", 1) * float64(w))
			n := f.Size("block_multiple_of", 256)
			w = (w + n - 1) / n * n
		}
		c.Intermediate = w
	}
	c.Names.FinalNorm = "model.embedding_norm.weight"
	return l
}

// checkTypes refuses kinds of layers that are not in a list.
func checkTypes(f *spec.Fields, key string, types []string, known ...string) {
	for _, t := range types {
		found := false
		for _, k := range known {
			found = found || t == k
		}
		if !found {
			f.Unsupported(key, t, fmt.Sprintf("%v", known))
		}
	}
}

func lfm2MLP(b *spec.Builder, h program.Reg) {
	gate := b.Linear(h, "feed_forward.w1", b.Config.Intermediate, false)
	up := b.Linear(h, "feed_forward.w3", b.Config.Intermediate, false)
	b.AddLinear(program.Stream, b.Gated(program.SiLU, gate, up), "feed_forward.w2", false)
}

func lfm2Mixer(b *spec.Builder, l lfm2) {
	c := b.Config
	h := b.Norm(program.Stream, "operator_norm", program.Norm{})
	if l.types[b.Index] == convolution {
		p := b.Linear(h, "conv.in_proj", 3*c.Hidden, l.bias) // B, C, x
		u := b.Reg(c.Hidden)
		b.Multiply(u, p, 0, p, 2*c.Hidden)
		y := b.Conv(u, 0, c.Hidden, l.size, "conv.conv", l.bias, program.Identity)
		b.Multiply(y, y, 0, p, c.Hidden)
		b.AddLinear(program.Stream, y, "conv.out_proj", l.bias)
		return
	}
	q, k, v := b.QKV(h)
	b.HeadNorm(q, "self_attn.q_layernorm", program.Norm{}, false)
	b.HeadNorm(k, "self_attn.k_layernorm", program.Norm{}, false)
	b.Rotate(q, c.Rope)
	b.Rotate(k, c.Rope)
	b.AddLinear(program.Stream, b.Attend(program.Attention{Q: q, K: k, V: v}), "self_attn.out_proj", false)
}

func lfm2GGUF() *decoder.GGUF {
	kernel := func(m *decoder.Model) []int { return []int{int(m.Number("conv_L_cache")), m.Hidden} }
	return &decoder.GGUF{
		Name: "lfm2", Other: convolution, FinalNorm: "token_embd_norm", Rename: map[string]string{"rms_norm_eps": "norm_eps"},
		Keys:      []decoder.GGUFKey{{Name: "shortconv.l_cache", Config: "conv_L_cache"}},
		Constants: map[string]any{"conv_bias": false, "block_auto_adjust_ff_dim": false},
		Block: spec.Joined(spec.GGUFNorm("operator_norm", "attn_norm"), spec.GGUFQKV(false), []decoder.GGUFName{
			{HF: "self_attn.q_layernorm", GGUF: "attn_q_norm"}, {HF: "self_attn.k_layernorm", GGUF: "attn_k_norm"},
			{HF: "self_attn.out_proj", GGUF: "attn_output"}, {HF: "conv.in_proj", GGUF: "shortconv.in_proj"},
		}, convNames("conv.conv", "shortconv.conv", kernel), []decoder.GGUFName{
			{HF: "conv.out_proj", GGUF: "shortconv.out_proj"}, {HF: "ffn_norm", GGUF: "ffn_norm"}, {HF: "feed_forward.w1", GGUF: "ffn_gate"},
			{HF: "feed_forward.w3", GGUF: "ffn_up"}, {HF: "feed_forward.w2", GGUF: "ffn_down"},
		}),
		Check: func(m *decoder.Model) error { return m.Require(map[string]any{"conv_bias": false}) },
	}
}
