package bitsandbytes

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

var anyConfig = json.RawMessage(`{"quant_method":"bitsandbytes","load_in_8bit":true}`)

func quantized(t require.TestingT, w *tensor.Matrix) *quant.Weight {
	q, err := quant.RTN{Workers: 1}.Quantize(context.Background(), w, llmint8.Grid{}.Scheme(), nil)
	require.NoError(t, err)
	return q
}

func random(seed uint64, out, in int) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(seed, 1))
	m := tensor.New(out, in)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

// What Linear8bitLt saves is what we write, byte for byte, and reads as what the library
// dequantizes it to, bit for bit (see testdata/generate.py).
func TestLibrary(t *testing.T) {
	f, err := safetensors.Open("testdata/linear8bit.safetensors")
	require.NoError(t, err)
	defer f.Close()
	require.True(t, Format{}.Detect(json.RawMessage(f.Metadata()["quantization_config"])))
	const name = "model.layers.0.q"
	var theirs []layout.Tensor
	for _, end := range []string{".weight", ".SCB", ".weight_format"} {
		info, ok := f.Info(name + end)
		require.True(t, ok)
		data, err := f.ReadBytes(name+end, nil)
		require.NoError(t, err)
		theirs = append(theirs, layout.Tensor{Spec: layout.Spec{Name: name + end, DType: info.DType, Shape: info.Shape}, Data: data})
	}
	floats := func(name string) []float32 {
		v, err := f.ReadFloat32(name, nil)
		require.NoError(t, err)
		return v
	}
	l, read := formattest.ReadBack(t, Format{}, anyConfig, theirs)
	require.Equal(t, name, l.Name)
	want := floats("want")
	for i, v := range read.Dequantize().Data {
		require.True(t, want[i] == v, "%d: %g, want %g", i, v, want[i]) // but the sign of zeros
	}
	ours, err := Format{}.Encode(layout.LayerOf(name, read), quantized(t, tensor.FromSlice(24, 40, floats("before"))))
	require.NoError(t, err)
	for i := range ours {
		require.Equal(t, theirs[i].Data, ours[i].Data, ours[i].Name)
		require.Equal(t, theirs[i].DType, ours[i].DType)
		require.Len(t, ours[i].Shape, len(theirs[i].Shape))
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := quantized(t, random(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 40).Draw(t, "in")))
		formattest.CheckRoundTrip(t, Format{}, layout.LayerOf("x", q), q)
	})
}

func TestRefuses(t *testing.T) {
	base := layout.Layer{Name: "x", Out: 8, In: 128, Scheme: llmint8.Grid{}.Scheme()}
	formattest.CheckRefusals(t, Format{}, base, []formattest.Refusal{
		{Name: "grid", Set: func(l *layout.Layer) { l.Scheme.Grid = nil }, Want: "the grid llm.int8 only"},
		{Name: "axis", Set: func(l *layout.Layer) { l.Scheme.Axis = quant.IC }, Want: "use axis oc"},
		{Name: "groups", Set: func(l *layout.Layer) { l.Scheme.GroupSize = 64 }, Want: "one scale a row"},
		{Name: "row scale", Set: func(l *layout.Layer) { l.RowScale = true }, Want: "no row or input scales"},
		{Name: "input scale", Set: func(l *layout.Layer) { l.InputScale = true }, Want: "no row or input scales"},
		{Name: "index", Set: func(l *layout.Layer) { l.GroupIndex = true }, Want: "no group index"},
		{Name: "columns", Set: func(l *layout.Layer) { l.Columns = 2 }, Want: "finds outliers when the model runs"},
	})
}

func TestConfig(t *testing.T) {
	c := layout.Contents{Layers: []layout.Layer{{Name: "a.0.x", Scheme: llmint8.Grid{}.Scheme()}}, Dense: []string{"model.embed_tokens", "a.0.y"}}
	for method, threshold := range map[string]string{
		``: "6",
		`{"method":"llmint8.Quantizer","parameters":{"outliers":"layer","threshold":20}}`: "20",
		`{"method":"llmint8.Quantizer","parameters":{"outliers":"none"}}`:                 "0",
		`{"method":"quant.RTN","parameters":{"threshold":3}}`:                             "6",
	} {
		c.Method = json.RawMessage(method)
		got, err := Format{}.Config(c)
		require.NoError(t, err)
		require.JSONEq(t, `{"quant_method":"bitsandbytes","load_in_4bit":false,"load_in_8bit":true,"llm_int8_enable_fp32_cpu_offload":false,
			"llm_int8_has_fp16_weight":false,"llm_int8_skip_modules":["a.0.y","lm_head"],"llm_int8_threshold":`+threshold+`}`, string(got.Quantization))
		require.Contains(t, string(got.Quantization), `"llm_int8_threshold":`+threshold+`.0`) // transformers wants a float
		require.True(t, Format{}.Detect(got.Quantization))
	}
	c.Layers = append(c.Layers, layout.Layer{Name: "lm_head"})
	c.Dense = c.Dense[:1]
	got, err := Format{}.Config(c)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"llm_int8_skip_modules":[]`) // null would skip the head
}

func TestDamage(t *testing.T) {
	q := quantized(t, random(1, 16, 64))
	tensors, err := Format{}.Encode(layout.LayerOf("x", q), q)
	require.NoError(t, err)
	formattest.CheckDamage(t, Format{}, anyConfig, tensors, []formattest.Damage{
		{Name: "weight dims", Edit: formattest.SetSpec("x.weight", safetensors.I8, 1024), Want: "want 2 dimensions"},
		{Name: "weight dtype", Edit: formattest.SetSpec("x.weight", safetensors.U8, 16, 64), Want: "dtype U8, want I8"},
		{Name: "scales", Edit: formattest.SetSpec("x.SCB", safetensors.F32, 15), Want: "shape [15], want [16]"},
		{Name: "scale dtype", Edit: formattest.SetSpec("x.SCB", safetensors.F16, 16), Want: "dtype F16, want F32"},
		{Name: "scale", Edit: formattest.SetBytes("x.SCB", 0, 0, 0, 0x80, 0x7f), Want: `layer "x": scale +Inf`},
		{Name: "order", Edit: formattest.SetBytes("x.weight_format", 0, 2), Want: "weight_format 2, want 0 (row)"},
		{Name: "orders", Edit: formattest.SetSpec("x.weight_format", safetensors.U8, 2), Want: "want one number"},
	})
	require.NoError(t, formattest.OpenAll(Format{}, anyConfig, formattest.NewMemory(tensors...)))
	require.NoError(t, formattest.OpenAll(Format{}, anyConfig, formattest.NewMemory(tensors[:2]...))) // as older versions wrote
}

func FuzzRead(f *testing.F) {
	formattest.FuzzFormat(f, Format{}, quantized(f, random(2, 8, 12)))
}
