package lowbit

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// copyOf copies a model and changes its config.json; nil removes it.
func copyOf(t *testing.T, model string, change func(config []byte) []byte) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(dir, os.DirFS(model)))
	path := filepath.Join(dir, "config.json")
	config, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	if config = change(config); config != nil {
		require.NoError(t, os.WriteFile(path, config, 0o666))
	}
	return dir
}

func renamed(config []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(config, []byte("LlamaForCausalLM"), []byte("ElephantForCausalLM")), []byte(`"llama"`), []byte(`"elephant"`))
}

func rounded(t *testing.T, model, name string) Options {
	o := Options{Model: model, Output: filepath.Join(t.TempDir(), "out"), Method: quant.RTN{}, Clip: new(true), GroupSize: 64}
	if name != "" {
		o.Format = format(t, name)
	}
	return o
}

// TestModelFree: what is quantized without a decoder is what is quantized with
// one, byte by byte.
func TestModelFree(t *testing.T) {
	for _, name := range []string{"lowbit", "gptq", "hqq", "dense"} {
		known := rounded(t, embedded, name)
		known.Axis = AxisOC
		_, err := Quantize(t.Context(), known)
		require.NoError(t, err)
		want := folder(t, known.Output)["model.safetensors"]
		for what, change := range map[string]func([]byte) []byte{
			"another name": renamed,
			"no config":    func([]byte) []byte { return nil },
			"refused":      func(c []byte) []byte { return bytes.Replace(c, []byte(`"hidden_size"`), []byte(`"hidden_sighs"`), 1) },
		} {
			o := rounded(t, copyOf(t, embedded, change), name)
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err, "%s, %s", name, what)
			if what == "another name" {
				require.Equal(t, []string{"architecture unknown: 28 linears by name and shape"}, r.Notes)
			}
			require.True(t, want == folder(t, o.Output)["model.safetensors"], "%s, %s", name, what)
			m, err := checkpoint.Open(o.Output)
			require.NoError(t, err)
			require.NoError(t, m.Close())
		}
	}
}

func TestModelFreeRefuses(t *testing.T) {
	model := copyOf(t, embedded, renamed)
	_, err := Quantize(t.Context(), rounded(t, model, "gguf"))
	require.ErrorContains(t, err, "format gguf")
	o := rounded(t, model, "")
	o.Method, o.Clip = nil, nil
	_, err = Resolve(o)
	require.ErrorIs(t, err, decoder.ErrUnsupported)
	require.ErrorContains(t, err, "method rtn")
	o = rounded(t, model, "")
	o.Axis = AxisAda
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrOptions)
	o = rounded(t, model, "")
	o.Calibration.Strings = []string{"text"}
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrOptions)
	_, err = os.Stat(o.Output + checkpoint.PartialSuffix)
	require.ErrorIs(t, err, os.ErrNotExist)

	for _, change := range []func(*Options, *regexp.Regexp){
		func(o *Options, r *regexp.Regexp) { o.Include = append(o.Include, r) },
		func(o *Options, r *regexp.Regexp) { o.Exclude = append(o.Exclude, r) },
	} {
		o = rounded(t, model, "")
		change(&o, regexp.MustCompile("nowhere"))
		_, err = Resolve(o)
		require.ErrorIs(t, err, ErrOptions)
		require.ErrorContains(t, err, "nowhere")
	}
}

// TestInclude: with a known architecture and without.
func TestInclude(t *testing.T) {
	for _, model := range []string{embedded, copyOf(t, embedded, renamed)} {
		o := rounded(t, model, "")
		o.Axis = AxisOC
		o.Include = []*regexp.Regexp{regexp.MustCompile(`embed_tokens|norm`)}
		o.Exclude = []*regexp.Regexp{regexp.MustCompile(`layers\.2\..*down`)}
		p, err := Resolve(o)
		require.NoError(t, err)
		dense := map[string]bool{}
		for _, l := range p.Layers {
			dense[l.Name] = l.Dense
		}
		require.Equal(t, map[string]bool{"model.embed_tokens": false, "model.layers.2.mlp.down_proj": true, "model.layers.1.mlp.down_proj": false}, map[string]bool{
			"model.embed_tokens": dense["model.embed_tokens"], "model.layers.2.mlp.down_proj": dense["model.layers.2.mlp.down_proj"],
			"model.layers.1.mlp.down_proj": dense["model.layers.1.mlp.down_proj"],
		})
		_, err = Quantize(t.Context(), o)
		require.NoError(t, err)
		m, err := checkpoint.Open(o.Output)
		require.NoError(t, err)
		_, ok := m.Layer("model.embed_tokens")
		require.True(t, ok)
		require.NoError(t, m.Close())
	}
	o := rounded(t, embedded, "")
	o.Include = []*regexp.Regexp{regexp.MustCompile(`embed_tokens`)}
	o.Calibration.Files = []string{embeddedCalibration}
	_, err := Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrOptions, "calibration does not see it")
}

// TestModelFreeExperts: experts in one tensor become layers of their own, here of
// a model whose experts are stored [in, out].
func TestModelFreeExperts(t *testing.T) {
	const tensorName = "model.layers.1.mlp.experts.gate_up_proj"
	model := copyOf(t, "testdata/architectures/gpt-oss", func([]byte) []byte { return nil })
	o := rounded(t, model, "")
	o.GroupSize, o.Bits = 4, 8
	_, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	src, err := checkpoint.Open(model)
	require.NoError(t, err)
	defer src.Close()
	m, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer m.Close()
	require.False(t, m.Has(tensorName))
	require.True(t, m.Has(tensorName+"_bias"))
	shape, _ := src.Shape(tensorName)
	v, err := src.Rows(tensorName, 2, 3, nil)
	require.NoError(t, err)
	want := tensor.FromSlice(shape[1], shape[2], v).T()
	got, err := m.Matrix(tensorName + ".2.weight")
	require.NoError(t, err)
	require.Equal(t, []int{want.Rows, want.Cols}, []int{got.Rows, got.Cols})
	for i := range want.Rows {
		require.InDeltaSlice(t, want.Row(i), got.Row(i), 0.01)
	}
}

// TestNothingLeft: a fit that leaves every layer dense is an error.
func TestNothingLeft(t *testing.T) {
	o := rounded(t, "testdata/architectures/gpt-oss", "gptq")
	o.Axis, o.Fit = AxisOC, FitOn
	_, err := Resolve(o)
	require.ErrorIs(t, err, fitting.ErrNothing)
}
