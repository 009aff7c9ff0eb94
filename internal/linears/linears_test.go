package linears

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func spec(name string, shape ...int) Tensor {
	return Tensor{Name: name, Type: "BF16", Float: true, Shape: shape}
}

// TestFind: names as models have them, and a word of why they stay dense, "" if
// they do not.
func TestFind(t *testing.T) {
	for _, c := range []struct {
		spec  Tensor
		dense string
	}{
		{spec("model.layers.0.self_attn.q_proj.weight", 64, 64), ""},
		{spec("model.layers.0.mlp.gate_proj.weight", 128, 64), ""},
		{spec("model.layers.0.mlp.gate.weight", 128, 64), ""}, // of an MLP
		{spec("model.layers.0.mlp.gate.weight", 8, 64), "router"},
		{spec("model.layers.0.block_sparse_moe.router.layer.weight", 8, 64), "router"},
		{spec("model.layers.0.mlp.shared_expert_gate.weight", 1, 64), "router"},
		{spec("model.layers.0.mlp.experts.3.down_proj.weight", 64, 32), ""},
		{spec("model.layers.0.mlp.experts.gate_up_proj", 8, 64, 64), ""},
		{spec("model.layers.0.mlp.experts.gate_up_proj_bias", 8, 64), "bias"},
		{spec("model.layers.0.block_sparse_moe.input_linear.weight", 8, 64, 32), ""},
		{spec("model.layers.0.three.weight", 8, 64, 32), "three dimensions"},
		{spec("model.embed_tokens.weight", 97, 64), "embedding"},
		{spec("transformer.wte.weight", 97, 64), "embedding"},
		{spec("transformer.wpe.weight", 97, 64), "position"},
		{spec("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 32, 8), "position"},
		{spec("shared.weight", 97, 64), "embedding"},
		{spec("lm_head.weight", 97, 64), "head"},
		{spec("embed_out.weight", 97, 64), "head"},
		{spec("score.weight", 9, 64), "head"},
		{spec("model.layers.0.self_attn.q_norm.weight", 8, 64), "norm"},
		{spec("backbone.layers.0.mixer.conv1d.weight", 64, 1, 4), "convolution"},
		{spec("model.layers.0.conv.in_proj.weight", 192, 64), ""},
		{spec("backbone.layers.0.mixer.A_log", 64, 16), "state"},
		{spec("backbone.layers.0.mixer.D", 64, 16), "state"},
		{spec("backbone.layers.0.mixer.dt_proj.weight", 64, 16), "state"},
		{spec("backbone.layers.0.mixer.x_proj.weight", 48, 64), ""},
		{spec("vision_tower.encoder.layers.0.q_proj.weight", 64, 64), "tower"},
		{spec("model.visual.blocks.0.attn.qkv.weight", 192, 64), "tower"},
		{spec("audio_tower.layers.0.fc1.weight", 64, 64), "tower"},
		{spec("multi_modal_projector.linear_1.weight", 64, 64), "projector"},
		{spec("patch.weight", 64, 3, 14, 14), "dimensions"},
		{spec("model.layers.0.small.weight", 4, 64), "small"},
		{spec("model.layers.0.other", 64, 64), "no weight"},
		{Tensor{Name: "a.weight", Type: "I32", Shape: []int{64, 64}}, "type I32"},
	} {
		found := Find([]Tensor{c.spec, spec("norm.weight", 64)}, nil)
		require.Len(t, found, 1, c.spec.Name)
		require.Contains(t, found[0].Dense, c.dense, c.spec.Name)
		require.Equal(t, c.dense == "", found[0].Dense == "", "%s: %s", c.spec.Name, found[0].Dense)
		require.Equal(t, len(c.spec.Shape) == 2 && strings.HasSuffix(c.spec.Name, ".weight"), found[0].Own)
	}
}

func TestInclude(t *testing.T) {
	include := []*regexp.Regexp{regexp.MustCompile("lm_head|patch|three")}
	found := Find([]Tensor{spec("lm_head.weight", 97, 64), spec("patch.weight", 4, 4, 4, 4), spec("three", 2, 64, 32), spec("shared.weight", 97, 64)}, include)
	require.Empty(t, found[0].Dense)
	require.NotEmpty(t, found[1].Dense, "no matrix")
	require.Empty(t, found[2].Dense)
	require.Equal(t, "three.1", found[2].LayerName(1))
	require.NotEmpty(t, found[3].Dense)
}

// TestExpertOrder: [experts, in, out] is told by the bias, or by the other tensor.
func TestExpertOrder(t *testing.T) {
	order := func(specs ...Tensor) (out, in int) {
		f := Find(specs, nil)[0]
		return f.Shape()
	}
	const up, down = "experts.gate_up_proj", "experts.down_proj"
	out, in := order(spec(up, 4, 36, 40))
	require.Equal(t, []int{36, 40}, []int{out, in}, "nothing to tell by")
	out, in = order(spec(up, 4, 36, 40), spec(up+"_bias", 4, 40))
	require.Equal(t, []int{40, 36}, []int{out, in})
	out, in = order(spec(up, 4, 36, 40), spec(down, 4, 20, 36))
	require.Equal(t, []int{40, 36}, []int{out, in})
	out, in = order(spec(up, 4, 40, 36), spec(down, 4, 36, 20))
	require.Equal(t, []int{40, 36}, []int{out, in})
	out, in = order(spec(down, 4, 20, 36), spec(up, 4, 36, 40))
	require.Equal(t, []int{36, 20}, []int{out, in})
}
