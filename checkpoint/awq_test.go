package checkpoint

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

func TestAWQListing(t *testing.T) {
	listed := checkListing(t, AWQ{}, "awq/4bit.txt", listingWeight(16, 8, quant.Scheme{Bits: 4, GroupSize: 4, MinZero: 1}))
	require.Equal(t, "75316420", wordsText(listed[0].Data)[:8], "codes 0 to 7 of outputs 0 to 7")
}

func TestAWQRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.IntRange(1, 40).Draw(t, "instep")
		l, w := drawHeld(t, AWQ{}, []int{4}, []int{quant.WholeLine, in, 2 * in}, 8, in, quant.OC)
		checkRoundTrip(t, AWQ{}, l, w)
	})
}

func TestAWQRefuses(t *testing.T) {
	base := Layer{Name: "x", Out: 8, In: 128, Scheme: quant.Scheme{Bits: 4, GroupSize: 64}}
	checkRefusals(t, AWQ{}, base, []refusal{
		{"bits", func(l *Layer) { l.Scheme.Bits = 3 }, "4 bits only, not 3; use format gptq_v2"},
		{"axis", func(l *Layer) { l.Scheme.Axis = quant.IC }, "use axis oc, or format hqq"},
		{"row scale", func(l *Layer) { l.RowScale = true }, "use format lowbit or dense"},
		{"input scale", func(l *Layer) { l.InputScale = true }, "use format lowbit or dense"},
		{"f32", func(l *Layer) { l.Scheme.ScaleType = quant.F32 }, "quantize with scale type f16"},
		{"index", func(l *Layer) { l.GroupIndex = true }, "quantize with static groups"},
		{"out", func(l *Layer) { l.Out = 12 }, "multiple of 8, not 12"},
		{"short group", func(l *Layer) { l.In = 96 }, "64 does not divide 96; use groups of 32"},
	})
}

func TestAWQConfig(t *testing.T) {
	layer := func(name string) Layer {
		return Layer{Name: name, Out: 64, In: 64, Scheme: quant.Scheme{Bits: 4, GroupSize: 32}}
	}
	c := Contents{Layers: []Layer{layer("a.0.x"), layer("a.1.x")}, Dense: []string{"model.embed_tokens"}, Config: json.RawMessage(`{"torch_dtype":"float16"}`)}
	got, err := AWQ{}.Config(c)
	require.NoError(t, err)
	require.JSONEq(t, `{"quant_method":"awq","zero_point":true,"group_size":32,"bits":4,"version":"gemm","modules_to_not_convert":null}`, string(got.Quantization))
	c.Dense = append(c.Dense, "a.1.y")
	got, err = AWQ{}.Config(c)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"modules_to_not_convert":["a.1.y","lm_head"]`)
	c.Layers[1].Scheme.GroupSize = 64
	_, err = AWQ{}.Config(c)
	require.ErrorIs(t, err, ErrUnsupported)
	require.ErrorContains(t, err, "one group size for the whole model")
}

func TestAWQStrangers(t *testing.T) {
	w := randomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	tensors, err := AWQ{}.Encode(LayerOf("x", w), w)
	require.NoError(t, err)
	_, got := readBack(t, AWQ{}, json.RawMessage(`{"quant_method":"awq","w_bit":4,"q_group_size":32,"zero_point":true,"version":"GEMM"}`), tensors)
	requireSame(t, w, got)
}

func TestAWQDamage(t *testing.T) {
	w := randomWeight(3, 16, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	tensors, err := AWQ{}.Encode(LayerOf("x", w), w)
	require.NoError(t, err)
	config := func(s string) string { return `{"quant_method":"awq","bits":4,"group_size":32` + s + `}` }
	checkDamage(t, AWQ{}, json.RawMessage(config("")), tensors, []damage{
		{name: "not JSON", config: `[`, want: "quantization_config"},
		{name: "version", config: config(`,"version":"gemv_fast"`), want: `awq version "gemv_fast" cannot be read: want gemm`},
		{name: "bits", config: config(`,"bits":3`), want: "awq bits 3, want 4"},
		{name: "no bits", config: `{"quant_method":"awq"}`, want: "awq bits missing"},
		{name: "no group", config: `{"quant_method":"awq","bits":4}`, want: "awq group_size missing"},
		{name: "group 0", config: config(`,"group_size":0`), want: "awq group_size 0"},
		{name: "group lies", config: config(`,"group_size":16`), want: `tensor "x.scales": shape [2 16], want [4 16]`},
		{name: "group does not divide", config: config(`,"group_size":60`), want: "64 inputs, want a multiple of the group_size 60"},
		{name: "no scales", edit: dropTensor("x.scales"), want: `no tensor "x.scales"`},
		{name: "no zeros", edit: dropTensor("x.qzeros"), want: `no tensor "x.qzeros"`},
		{name: "weight dtype", edit: setSpec("x.qweight", safetensors.I64, 64, 2), want: "dtype I64, want I32"},
		{name: "weight dims", edit: setSpec("x.qweight", safetensors.I32, 128), want: "want 2 dimensions"},
		{name: "zeros shape", edit: setSpec("x.qzeros", safetensors.I32, 2, 3), want: "shape [2 3], want [2 2]"},
		{name: "zeros dtype", edit: setSpec("x.qzeros", safetensors.F16, 2, 2), want: "dtype F16, want I32"},
		{name: "scale", edit: setBytes("x.scales", 0, 0, 0xfc), want: `layer "x": scale -Inf`},
	})
	require.NoError(t, openAll(AWQ{}, json.RawMessage(config("")), newMemory(tensors...)))
}

func FuzzAWQ(f *testing.F) {
	fuzzFormat(f, AWQ{}, randomWeight(1, 16, 32, quant.Scheme{Bits: 4, GroupSize: 16}, false, false))
}
