package lowbit

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// setBF16 sets an element of a tensor of the one file of a model.
func setBF16(t *testing.T, dir, tensor string, at int, v float32) {
	t.Helper()
	f, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	info, ok := f.Info(tensor)
	require.True(t, ok)
	require.NoError(t, f.Close())
	edit(t, filepath.Join(dir, "model.safetensors"), func(data []byte) []byte {
		head := int(data[0]) | int(data[1])<<8 | int(data[2])<<16
		bits := math.Float32bits(v)
		copy(data[8+head+int(info.Begin)+2*at:], []byte{byte(bits >> 16), byte(bits >> 24)})
		return data
	})
}

// TestOutOfRange: a layer whose scale no half float is stays dense, with a
// warning, in every format and on both routes, and nothing else changes.
func TestOutOfRange(t *testing.T) {
	const layer = "model.layers.1.mlp.up_proj"
	model := copyModel(t)
	setBF16(t, model, layer+".weight", 300, 2e6)
	source, err := checkpoint.Open(model)
	require.NoError(t, err)
	defer source.Close()
	want, err := source.Matrix(layer + ".weight")
	require.NoError(t, err)
	check := func(t *testing.T, o Options) {
		t.Helper()
		o.Model, o.Output = model, filepath.Join(t.TempDir(), "out")
		warned := false
		o.Events = func(e Event) {
			warned = warned || e.Kind == EventWarning && e.Name == layer && strings.Contains(e.Message, "left dense: ")
		}
		r, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		require.True(t, warned)
		for _, l := range r.Layers {
			require.Equal(t, l.Name == layer, l.Dense, l.Name)
		}
		made, err := checkpoint.Open(o.Output)
		require.NoError(t, err)
		defer made.Close()
		got, err := made.Matrix(layer + ".weight")
		require.NoError(t, err)
		require.Equal(t, want.Data, got.Data)
		require.NoDirExists(t, o.Output+checkpoint.PartialSuffix)
	}
	for _, f := range checkpoint.Formats() {
		o := Options{Format: f, Method: quant.RTN{}, Bits: 4, GroupSize: 32, Axis: AxisOC, Symmetric: new(true), ScaleType: new(quant.F16)}
		if choosesGrids(f) {
			o.Bits, o.GroupSize, o.Symmetric, o.ScaleType = 0, 0, nil, nil
		}
		t.Run(f.Name()+", rounded", func(t *testing.T) { check(t, o) })
		o.Method, o.Preset, o.Calibration, o.Fold = nil, Paper, quick(t).Calibration, FoldOn
		o.Arms, o.Inputs = []adadim.Arm{{}, {InputScale: true}}, InputsQuantized
		t.Run(f.Name()+", calibrated", func(t *testing.T) { check(t, o) })
	}
}

// TestNotFiniteEarly: NaN in the last block ends a run before its first layer.
func TestNotFiniteEarly(t *testing.T) {
	o := quick(t)
	o.Model = copyModel(t)
	setBF16(t, o.Model, "model.layers.3.mlp.down_proj.weight", 7, float32(math.NaN()))
	o.Events = func(e Event) { require.NotEqual(t, EventLayer, e.Kind) }
	_, err := Quantize(t.Context(), o)
	require.ErrorContains(t, err, `tensor "model.layers.3.mlp.down_proj.weight": element 7 is NaN`)
}

// TestLargestGroups: the largest group size that there is goes through every
// format that takes it, and comes back; a larger one is refused before any work.
func TestLargestGroups(t *testing.T) {
	for _, f := range checkpoint.Formats() {
		if choosesGrids(f) {
			continue
		}
		o := Options{
			Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Format: f,
			Method: quant.RTN{}, Bits: 4, GroupSize: math.MaxInt32, Axis: AxisOC, Symmetric: new(true),
		}
		_, err := Quantize(t.Context(), o)
		if err != nil {
			require.ErrorIs(t, err, layout.ErrUnsupported, f.Name())
		} else {
			m, err := checkpoint.Open(o.Output)
			require.NoError(t, err, f.Name())
			for _, l := range m.Layers() {
				_, err := m.Matrix(l.Name + ".weight")
				require.NoError(t, err, f.Name())
			}
			require.NoError(t, m.Close())
		}
		o.GroupSize, o.Output = math.MaxInt32+1, o.Output+"2"
		_, err = Resolve(o)
		require.ErrorIs(t, err, ErrOptions)
	}
}

// TestTypesEarly: a type that cannot be read is refused before any text is,
// whatever tensor has it and wherever it is.
func TestTypesEarly(t *testing.T) {
	for _, tensor := range []string{"model.embed_tokens.weight", "model.norm.weight", "model.layers.3.post_attention_layernorm.weight", "model.layers.3.mlp.down_proj.weight"} {
		o := quick(t)
		o.Model = copyModel(t)
		edit(t, filepath.Join(o.Model, "model.safetensors"), func(data []byte) []byte {
			return bytes.Replace(data, []byte(`"`+tensor+`":{"dtype":"BF16"`), []byte(`"`+tensor+`":{"dtype":"I16" `), 1)
		})
		o.Calibration.Files = []string{"none"}
		want := func(err error) {
			t.Helper()
			require.ErrorContains(t, err, tensor)
			require.ErrorContains(t, err, "dtype I16")
		}
		_, err := Resolve(o)
		want(err)
		o.Method, o.Format, o.Calibration, o.Preset = quant.RTN{}, format(t, "gguf"), Calibration{}, PresetDefault
		_, err = Quantize(t.Context(), o)
		want(err)
		_, err = Evaluate(t.Context(), EvalOptions{Model: o.Model, Text: Text{Files: []string{"none"}}})
		want(err)
	}
}

// A bfloat16 model stays one where the format can say so, and where it cannot
// there is a warning if its activations are beyond half floats.
func TestBF16Model(t *testing.T) {
	far := copyModel(t)
	setBF16(t, far, "model.layers.1.post_attention_layernorm.weight", 5, 3e5)
	for name, c := range map[string]struct {
		format, model string
		scales        *quant.ScaleType
		stored        safetensors.DType
		warned        bool
	}{
		"compressed-tensors":               {"compressed-tensors", embedded, nil, safetensors.BF16, false},
		"compressed-tensors, far":          {"compressed-tensors", far, nil, safetensors.BF16, false},
		"compressed-tensors, half floats":  {"compressed-tensors", embedded, new(quant.F16), safetensors.F16, false},
		"compressed-tensors, far and half": {"compressed-tensors", far, new(quant.F16), safetensors.F16, true},
		"gptq, far":                        {"gptq", far, nil, safetensors.F16, true},
		"gptq":                             {"gptq", embedded, nil, safetensors.F16, false},
	} {
		t.Run(name, func(t *testing.T) {
			o := quick(t)
			o.Model, o.Format, o.ScaleType = c.model, format(t, c.format), c.scales
			o.Preset, o.Symmetric, o.Axis = Plain, new(true), AxisOC
			warned := 0
			o.Events = func(e Event) {
				if e.Kind == EventWarning && strings.Contains(e.Message, "half floats, in which engines compute") {
					require.Equal(t, "model.layers.1.mlp.gate_proj", e.Name)
					warned++
				}
			}
			_, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.Equal(t, c.warned, warned == 1, warned)
			config, err := os.ReadFile(filepath.Join(o.Output, "config.json"))
			require.NoError(t, err)
			require.Equal(t, c.stored, layout.ConfigDType(config))
			f, err := safetensors.OpenFolder(o.Output)
			require.NoError(t, err)
			defer f.Close()
			scales := ".weight_scale"
			if c.format == "gptq" {
				scales = ".scales"
			}
			info, ok := f.Info("model.layers.0.self_attn.q_proj" + scales)
			require.True(t, ok)
			require.Equal(t, c.stored, info.DType)
			made, err := checkpoint.Open(o.Output)
			require.NoError(t, err)
			defer made.Close()
			_, err = made.Matrix("model.layers.0.self_attn.q_proj.weight")
			require.NoError(t, err)
		})
	}
}
