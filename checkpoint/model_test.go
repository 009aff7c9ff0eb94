package checkpoint

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

func TestOpenRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, dir string)
		want   string
	}{
		"config is a list": {config(`[]`), "config.json: not a JSON object"},
		"config cut":       {config(`{"a": 1`), "config.json: not JSON"},
		"config tail":      {config(`{} {}`), "text after the object"},
		"unknown method":   {config(`{"quantization_config": {"quant_method": "magic"}}`), `quant_method "magic" cannot be read: known formats are lowbit, `},
		"no method":        {config(`{"quantization_config": {"bits": 4}}`), "of an unknown format"},
		"config lies":      {config(`{"quantization_config": {"quant_method": "lowbit", "version": "x"}}`), "quantization_config"},
		"no tensors": {func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
		}, "pytorch_model.bin: not a PyTorch checkpoint"},
		"truncated": {func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors"), 3000))
		}, "model.safetensors"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeModel(t, safetensors.F16)
			c.change(t, dir)
			_, err := Open(dir)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
	_, err := Open(filepath.Join(t.TempDir(), "nothing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	file := filepath.Join(t.TempDir(), "model.bin")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o666))
	_, err = Open(file)
	require.ErrorContains(t, err, "neither a model folder nor a model file")
}

func config(text string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o666))
	}
}

// A folder where a layer is there both packed and dense is ambiguous.
func TestOpenAmbiguous(t *testing.T) {
	w := formattest.ListingWeight(6, 4, quant.Scheme{Bits: 3, GroupSize: 2})
	tensors, err := native.Format{}.Encode(layout.LayerOf("fc", w), w)
	require.NoError(t, err)
	src := formattest.NewMemory(tensors...)
	src.Put(layout.Tensor{Spec: layout.Spec{Name: "fc.weight", DType: safetensors.F16, Shape: []int{6, 2}}, Data: make([]byte, 24)})
	dec, err := native.Format{}.Open(json.RawMessage(`{}`), src)
	require.NoError(t, err)
	_, err = newModel("m", []byte("{}"), src, native.Format{}, dec)
	require.ErrorContains(t, err, `tensor "fc.weight": the layer is there in packed form too`)
}

func TestModelReads(t *testing.T) {
	for _, dtype := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		m := openModel(t, writeModel(t, dtype))
		v, err := m.Vector("model.norm.weight")
		require.NoError(t, err)
		require.Len(t, v, 64)
		e, err := m.Matrix("model.embed_tokens.weight")
		require.NoError(t, err)
		require.Equal(t, []int{20, 64}, []int{e.Rows, e.Cols})
		_, err = m.Vector("model.embed_tokens.weight")
		require.ErrorContains(t, err, "shape [20 64], want [any]")
		_, err = m.Matrix("model.norm.weight")
		require.ErrorContains(t, err, "shape [64], want [any any]")
		_, err = m.Matrix("nothing")
		require.ErrorContains(t, err, `no tensor "nothing"`)
		_, err = m.Weight("model.layers.0.self_attn.q_proj")
		require.ErrorContains(t, err, "no quantized layer")
		require.False(t, m.Has("nothing"))
		d, ok := m.DType("model.norm.weight")
		require.True(t, ok)
		require.Equal(t, dtype, d)
		require.EqualValues(t, (2*20*64+2*64*64+2*64*96+2*64)*dtype.Bits()/8, m.Bytes())

		// The two ways to read floats agree.
		plain := formattest.NewMemory()
		spec, data, err := layout.ReadBytes(m.Source(), "model.embed_tokens.weight", nil, dtype)
		require.NoError(t, err)
		plain.Put(layout.Tensor{Spec: spec, Data: data})
		again, err := layout.ReadFloats(plain, "model.embed_tokens.weight", 20, 64)
		require.NoError(t, err)
		require.Equal(t, e.Data, again)
	}
}

func TestModelNotFinite(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, at := range []int{0, 1, 1023, 1024, 1500, 2999} {
		for _, bad := range []float32{nan, inf} {
			v := make([]float32, 3000)
			for i := range v {
				v[i] = float32(i) - 7.5e37
			}
			require.Equal(t, -1, wire.NotFinite(v))
			v[at] = bad
			require.Equal(t, at, wire.NotFinite(v))
		}
	}
	tn, err := layout.FloatTensor("a", safetensors.F32, []float32{1, 2, 3}, 3)
	require.NoError(t, err)
	copy(tn.Data[4:], "\x00\x00\xc0\x7f")
	m, err := newModel("m", []byte("{}"), formattest.NewMemory(tn), dense.Format{}, nil)
	require.NoError(t, err)
	_, err = m.Vector("a")
	require.ErrorContains(t, err, `tensor "a": element 1 is NaN`)
}

// Older AutoGPTQ names its only file after the scheme.
func TestOpenOddFileName(t *testing.T) {
	dir := writeModel(t, safetensors.F16)
	require.NoError(t, os.Rename(filepath.Join(dir, "model.safetensors"), filepath.Join(dir, "gptq_model-4bit-128g.safetensors")))
	odd := filepath.Join(filepath.Dir(dir), "[odd]*")
	require.NoError(t, os.Rename(dir, odd))
	m := openModel(t, odd)
	require.True(t, m.Has("model.norm.weight"))
	require.True(t, strings.HasSuffix(m.Source().File("model.norm.weight"), "gptq_model-4bit-128g.safetensors"))
}

func TestLookup(t *testing.T) {
	for _, f := range Formats() {
		g, err := Lookup(f.Name())
		require.NoError(t, err)
		require.Equal(t, f, g)
	}
	_, err := Lookup("zip")
	require.ErrorContains(t, err, `unknown checkpoint format "zip": want one of [lowbit dense`)
}
