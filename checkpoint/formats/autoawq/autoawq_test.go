package autoawq

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

func TestAWQListing(t *testing.T) {
	listed := formattest.CheckListing(t, Format{}, "4bit.txt", formattest.ListingWeight(16, 8, quant.Scheme{Bits: 4, GroupSize: 4, MinZero: 1}))
	require.Equal(t, "75316420", formattest.WordsText(listed[0].Data)[:8], "codes 0 to 7 of outputs 0 to 7")
}

func TestAWQRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.IntRange(1, 40).Draw(t, "instep")
		l, w := formattest.DrawHeld(t, Format{}, []int{4}, []int{quant.WholeLine, in, 2 * in}, 8, in, quant.OC)
		formattest.CheckRoundTrip(t, Format{}, l, w)
	})
}

func TestAWQRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 8, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64}}
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "bits", Set: func(l *layout.Layer) { l.Scheme.Bits = 3 }, Want: "4 bits only, not 3; use format gptq_v2"},
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc, or format hqq"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "use format lowbit or dense"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "use format lowbit or dense"},
		{Name: "f32", Set: func(l *layout.Layer) { l.Scheme.ScaleType = quant.F32 }, Want: "quantize with scale type f16"},
		{Name: "index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "quantize with static groups"},
		{Name: "out", Set: func(l *layout.Layer) { l.Out = 12 }, Want: "multiple of 8, not 12"},
		{Name: "short group", Set: func(l *layout.Layer) { l.In = 96 }, Want: "64 does not divide 96; use groups of 32"},
	})
}

func TestAWQConfig(t *testing.T) {
	layer := func(name string) layout.Layer {
		return layout.Layer{Name: name, Out: 64, In: 64, Scheme: quant.Scheme{Bits: 4, GroupSize: 32}}
	}
	c := layout.Contents{Layers: []layout.Layer{layer("a.0.x"), layer("a.1.x")}, Dense: []string{"model.embed_tokens"}, Config: json.RawMessage(`{"torch_dtype":"float16"}`)}
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"awq","zero_point":true,"group_size":32,"bits":4,"version":"gemm","modules_to_not_convert":null}`, string(got.Quantization))
	c.Dense = append(c.Dense, "a.1.y")
	got, err = Format{}.Config(c)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"modules_to_not_convert":["a.1.y","lm_head"]`)
	c.Layers[1].Scheme.GroupSize = 64
	_, err = Format{}.Config(c)
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, "one group size for the whole model")
}

func TestAWQStrangers(t *testing.T) {
	w := formattest.RandomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.NoError(t, err)
	_, got := formattest.ReadBack(t, Format{}, json.RawMessage(`{"quant_method":"awq","w_bit":4,"q_group_size":32,"zero_point":true,"version":"GEMM"}`), tensors)
	formattest.RequireSame(t, w, got)
}

func TestAWQDamage(t *testing.T) {
	w := formattest.RandomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	tensors, err := Format{}.Encode(layout.LayerOf("x", w), w)
	require.NoError(t, err)
	config := func(s string) string { return `{"quant_method":"awq","bits":4,"group_size":32` + s + `}` }
	formattest.CheckDamage(t, Format{}, json.RawMessage(config("")), tensors, []formattest.Damage{
		{Name: "not JSON", Config: `[`, Want: "quantization_config"},
		{Name: "version", Config: config(`,"version":"gemv_fast"`), Want: `awq version "gemv_fast" cannot be read: want gemm`},
		{Name: "bits", Config: config(`,"bits":3`), Want: "awq bits 3, want 4"},
		{Name: "no bits", Config: `{"quant_method":"awq"}`, Want: "awq bits missing"},
		{Name: "no group", Config: `{"quant_method":"awq","bits":4}`, Want: "awq group_size missing"},
		{Name: "group 0", Config: config(`,"group_size":0`), Want: "awq group_size 0"},
		{Name: "group lies", Config: config(`,"group_size":16`), Want: `tensor "x.scales": shape [2 16], want [4 16]`},
		{Name: "group does not divide", Config: config(`,"group_size":60`), Want: "64 inputs, want a multiple of the group_size 60"},
		{Name: "no scales", Edit: formattest.DropTensor("x.scales"), Want: `no tensor "x.scales"`},
		{Name: "no zeros", Edit: formattest.DropTensor("x.qzeros"), Want: `no tensor "x.qzeros"`},
		{Name: "weight dtype", Edit: formattest.SetSpec("x.qweight", safetensors.I64, 64, 2), Want: "dtype I64, want I32"},
		{Name: "weight dims", Edit: formattest.SetSpec("x.qweight", safetensors.I32, 128), Want: "want 2 dimensions"},
		{Name: "zeros shape", Edit: formattest.SetSpec("x.qzeros", safetensors.I32, 2, 3), Want: "shape [2 3], want [2 2]"},
		{Name: "zeros dtype", Edit: formattest.SetSpec("x.qzeros", safetensors.F16, 2, 2), Want: "dtype F16, want I32"},
		{Name: "scale", Edit: formattest.SetBytes("x.scales", 0, 0, 0xfc), Want: `layer "x": scale -Inf`},
	})
	require.NoError(t, formattest.OpenAll(Format{}, json.RawMessage(config("")), formattest.NewMemory(tensors...)))
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{}, formattest.RandomWeight(1, 16, 32, quant.Scheme{Bits: 4, GroupSize: 16}, false, false))
}
