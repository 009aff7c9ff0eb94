package lowbit

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/bitsandbytes"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/quant/llmint8"
)

func opened(t *testing.T, path string) *checkpoint.Model {
	t.Helper()
	m, err := checkpoint.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// TestInt8 quantizes without text: what lowbit and bitsandbytes hold converts to each
// other, byte for byte.
func TestInt8(t *testing.T) {
	dir := t.TempDir()
	paths := map[string]string{}
	for _, f := range []layout.Format{nil, bitsandbytes.Format{}} {
		name := "lowbit"
		if f != nil {
			name = f.Name()
		}
		paths[name] = filepath.Join(dir, name)
		r, err := Quantize(t.Context(), Options{Model: embedded, Output: paths[name], Format: f, Method: llmint8.Quantizer{}})
		require.NoError(t, err)
		require.Equal(t, name, r.Format)
		require.InDelta(t, 8+32.0/256, r.BitsPerWeight, 0.02) // rows of 256 and 512
	}
	for from, to := range map[string]layout.Format{"lowbit": bitsandbytes.Format{}, "bitsandbytes": format(t, "lowbit")} {
		out := filepath.Join(dir, "from-"+from)
		require.NoError(t, checkpoint.Convert(t.Context(), checkpoint.WriterOptions{Out: out, Source: opened(t, paths[from]), Format: to}))
		require.Equal(t, folder(t, paths[to.Name()])["model.safetensors"], folder(t, out)["model.safetensors"])
	}
	m := opened(t, paths["bitsandbytes"])
	require.Equal(t, "bitsandbytes", m.Format().Name())
	require.Len(t, m.Layers(), 28)
}

// TestInt8Outliers keeps the columns of features that reach the threshold in front of a
// layer; a dense output has their weights as they were.
func TestInt8Outliers(t *testing.T) {
	o := quick(t)
	o.Preset, o.Bits, o.GroupSize, o.Method = PresetDefault, 0, 0, llmint8.Quantizer{}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	plain := filepath.Join(t.TempDir(), "dense")
	d := o
	d.Output, d.Format = plain, dense.Format{}
	_, err = Quantize(t.Context(), d)
	require.NoError(t, err)

	source, m, dequantized := opened(t, embedded), opened(t, o.Output), opened(t, plain)
	total := 0
	for i, name := range m.Quantized() {
		w, err := m.Weight(name)
		require.NoError(t, err)
		l, _ := m.Layer(name)
		require.Len(t, w.Columns, l.Columns)
		require.InDelta(t, float64(w.StorageBits())/float64(w.Out*w.In), bitsOf(r, name), 1e-9)
		before, err := source.Matrix(name + ".weight")
		require.NoError(t, err)
		after, err := dequantized.Matrix(name + ".weight")
		require.NoError(t, err)
		for _, c := range w.Columns {
			for row := range w.Out {
				require.InDelta(t, before.At(row, int(c)), after.At(row, int(c)), 1e-7, "%d %s", i, name)
			}
		}
		total += len(w.Columns)
	}
	require.Positive(t, total, "the text has outliers in front of down_proj")

	// With a threshold that nothing reaches there are none, and the weights are those without text.
	o.Output, o.Method = filepath.Join(t.TempDir(), "none"), llmint8.Quantizer{Threshold: 1e6}
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
	for _, l := range opened(t, o.Output).Layers() {
		require.Zero(t, l.Columns)
	}
}

func bitsOf(r *Report, name string) float64 {
	for _, l := range r.Layers {
		if l.Name == name {
			return l.Bits
		}
	}
	return math.NaN()
}

// TestInt8Model: by the rule of the model the same features are kept in front of all layers
// that read the residual stream, and none in front of down_proj.
func TestInt8Model(t *testing.T) {
	o := quick(t)
	o.Preset, o.Bits, o.GroupSize, o.Method = PresetDefault, 0, 0, llmint8.Quantizer{Outliers: llmint8.OutliersModel, Threshold: 1.5}
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	m := opened(t, o.Output)
	var features []int32
	for _, l := range m.Layers() {
		w, err := m.Weight(l.Name)
		require.NoError(t, err)
		if l.In != 256 {
			require.Empty(t, w.Columns)
			continue
		}
		if features == nil {
			features = w.Columns
		}
		require.Equal(t, features, w.Columns)
	}
	require.NotEmpty(t, features)
	require.Less(t, len(features), 256)
}

// TestInt8Refusals: what does not go together is said before any text is read.
func TestInt8Refusals(t *testing.T) {
	base := quick(t)
	base.Preset, base.Bits, base.GroupSize, base.Method = PresetDefault, 0, 0, llmint8.Quantizer{}
	for want, change := range map[string]func(o *Options){
		"4 bits are given beside a type of 8 in method llmint8.Quantizer": func(o *Options) { o.Bits = 4 },
		"method llmint8.Quantizer chooses the grid of each layer":         func(o *Options) { o.GroupSize = 64 },
		"format gguf chooses the grid of each layer, and method":          func(o *Options) { o.Format = ggufmodel.Format{Type: "Q4_K_M"} },
		"finds outliers when the model runs":                              func(o *Options) { o.Format = bitsandbytes.Format{} },
		"outliers from -1 on":                                             func(o *Options) { o.Method = llmint8.Quantizer{Threshold: -1} },
	} {
		o := base
		change(&o)
		_, err := Resolve(o)
		require.ErrorContains(t, err, want)
	}
	// Without text no columns are kept; the grid remains.
	base.Calibration, base.Format = Calibration{}, format(t, "mlx")
	_, err := Resolve(base)
	require.ErrorContains(t, err, "mlx has no grid llm.int8")
	base.Format, base.Arms = nil, []adadim.Arm{adadim.ArmIC()}
	_, err = Quantize(t.Context(), base)
	require.ErrorIs(t, err, quant.ErrScheme)
}

// TestInt8Resume: layers with columns are taken up as they were.
func TestInt8Resume(t *testing.T) {
	o := quick(t)
	o.Preset, o.Bits, o.GroupSize, o.Method = PresetDefault, 0, 0, llmint8.Quantizer{}
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	want := o.Output
	o.Output, o.Resume = filepath.Join(t.TempDir(), "again"), true
	interrupt(t, o, 9)
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Len(t, r.Layers, 28)
	requireSameFolder(t, want, o.Output)
}

// TestInt8Inputs: perplexity with inputs in 8 bits is close to that with weights alone, and
// closer with outliers in 16 bits than without.
func TestInt8Inputs(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	_, err := Quantize(t.Context(), Options{Model: embedded, Output: out, Method: llmint8.Quantizer{}})
	require.NoError(t, err)
	text := short(t)
	kl := func(threshold *float32) float64 {
		e, err := Evaluate(t.Context(), EvalOptions{Model: out, Against: embedded, Text: text, Int8Inputs: threshold})
		require.NoError(t, err)
		return *e.KL
	}
	weights, six, zero := kl(nil), kl(new(float32(6))), kl(new(float32(0)))
	require.Less(t, weights, six)
	require.Less(t, six, zero)
	require.Less(t, zero, 0.01)

	three := filepath.Join(t.TempDir(), "three")
	_, err = Quantize(t.Context(), Options{Model: embedded, Output: three, Method: quant.RTN{}, Bits: 3, Axis: AxisOC})
	require.NoError(t, err)
	for path, want := range map[string]string{three: "not 3 bits in groups of 128", embedded: "nothing in the model is quantized"} {
		_, err = Evaluate(t.Context(), EvalOptions{Model: path, Text: text, Int8Inputs: new(float32(6))})
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.ErrorContains(t, err, want)
	}
	_, err = Evaluate(t.Context(), EvalOptions{Model: out, Text: text, Int8Inputs: new(float32(-1))})
	require.ErrorIs(t, err, ErrOptions)
}
