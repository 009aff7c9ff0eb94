package checkpoint

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

const (
	testNorm = "model.norm.weight"
	testBias = "model.layers.0.self_attn.q_proj.bias"
)

// eighths are values that every type holds.
func eighths(n, from int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(from+i) / 8
	}
	return v
}

func TestPutDense(t *testing.T) {
	for _, dtype := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		for _, direct := range []bool{false, true} {
			source := openModel(t, writeModel(t, dtype))
			weights := testWeights()
			o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: source, Format: native.Format{}, Direct: direct}
			for _, l := range layerNames() {
				o.Layers = append(o.Layers, layout.LayerOf(l.Name, weights[l.Name]))
			}
			var done, total int64
			o.Progress = func(d, n int64) { done, total = d, n }
			w, err := Create(o)
			require.NoError(t, err)
			gain := eighths(64, -3)
			require.NoError(t, w.PutDense(testNorm, gain))
			gain[0]++ // the writer has its own
			gain = eighths(64, -3)
			require.NoError(t, w.PutDense(testBias, eighths(64, 5)))
			putAll(t, w, weights)
			require.NoError(t, w.Finish(t.Context()))
			require.Equal(t, total, done)

			out := openModel(t, o.Out)
			for _, s := range out.Dense() {
				_, got, err := layout.ReadBytes(out.Source(), s.Name, s.Shape, dtype)
				require.NoError(t, err)
				_, want, err := layout.ReadBytes(source.Source(), s.Name, s.Shape, dtype)
				require.NoError(t, err)
				switch s.Name {
				case testNorm, testBias:
					require.NotEqual(t, want, got)
					v, err := out.Vector(s.Name)
					require.NoError(t, err)
					require.Equal(t, map[string][]float32{testNorm: gain, testBias: eighths(64, 5)}[s.Name], v)
				default:
					require.Equal(t, want, got, s.Name)
				}
			}
		}
	}
}

func TestPutDenseRefuses(t *testing.T) {
	source := openModel(t, writeModel(t, safetensors.BF16))
	w, err := Create(WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: source, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	inexact, infinite := eighths(64, 0), eighths(64, 0)
	inexact[9] = 1.001
	infinite[9] = float32(math.Inf(1))
	require.NoError(t, w.PutDense(testNorm, eighths(64, 0)))
	require.NoError(t, w.PutDense(testNorm, eighths(64, 0)), "the same again")
	for _, tt := range []struct {
		name   string
		values []float32
		want   string
	}{
		{"model.norm.bias", eighths(64, 0), `no dense tensor "model.norm.bias"`},
		{testBias, eighths(63, 0), "shape [64], want a vector of 63"},
		{"lm_head.weight", eighths(1280, 0), "shape [20 64], want a vector"},
		{testBias, inexact, "value 1.001 at 9 is not exact in BF16"},
		{testBias, infinite, "element 9 is +Inf"},
		{testNorm, eighths(64, 1), "changed already, to other values"},
	} {
		require.ErrorContains(t, w.PutDense(tt.name, tt.values), tt.want)
	}
	require.NoError(t, w.Close())
	require.ErrorContains(t, w.PutDense(testBias, eighths(64, 0)), "closed")
	require.NoDirExists(t, w.partial.Path(), "no layer was done")

	// Nor can what belongs to a quantized layer be changed.
	packed := filepath.Join(t.TempDir(), "packed")
	w, err = Create(WriterOptions{Out: packed, Source: source, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	putAll(t, w, testWeights())
	require.NoError(t, w.Finish(t.Context()))
	again := openModel(t, packed)
	w, err = Create(WriterOptions{Out: packed + "2", Source: again, Format: native.Format{}, Layers: layerNames()})
	require.NoError(t, err)
	scales := testLinears[0].name + ".lowbit_scales"
	require.True(t, again.Has(scales))
	require.ErrorContains(t, w.PutDense(scales, eighths(64, 0)), "no dense tensor")
	require.NoError(t, w.Discard())
}

func TestPutDenseResume(t *testing.T) {
	source := openModel(t, writeModel(t, safetensors.BF16))
	weights := testWeights()
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: source, Format: native.Format{}, Layers: layerNames()}
	w, err := Create(o)
	require.NoError(t, err)
	require.NoError(t, w.PutDense(testNorm, eighths(64, -3)))
	first := testLinears[0].name
	require.NoError(t, w.Put(first, weights[first], nil))
	require.NoError(t, w.Close())

	// Half a tensor of a killed run is none.
	layers := filepath.Join(o.Out+PartialSuffix, partial.LayerFolder)
	half := filepath.Join(layers, "dense-"+testBias)
	require.NoError(t, os.Mkdir(half, 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(half, "model.safetensors.0123.tmp"), []byte("half"), 0o666))

	file := filepath.Join(layers, "dense-"+testNorm, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	data[len(data)-1] ^= 1
	require.NoError(t, os.WriteFile(file, data, 0o666))
	o.Resume = true
	w, err = Create(o)
	require.NoError(t, err)
	require.Len(t, w.Damaged(), 1)
	require.ErrorContains(t, w.Damaged()[0], "the file is damaged")
	require.False(t, w.Done(first), "it may have been made with the tensor")
	require.NoError(t, w.PutDense(testNorm, eighths(64, -3)))
	require.NoError(t, w.Put(first, weights[first], nil))
	require.NoError(t, w.Close())

	w, err = Create(o)
	require.NoError(t, err)
	require.Empty(t, w.Damaged())
	require.True(t, w.Done(first))
	require.NoError(t, w.PutDense(testNorm, eighths(64, -3)))
	require.Error(t, w.PutDense(testNorm, eighths(64, -4)))
	require.NoError(t, w.PutDense(testBias, eighths(64, 9)))
	putAll(t, w, weights)
	require.NoError(t, w.Finish(t.Context()))
	out := openModel(t, o.Out)
	for name, want := range map[string][]float32{testNorm: eighths(64, -3), testBias: eighths(64, 9)} {
		v, err := out.Vector(name)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
}

// vectorFile is a file of one vector of the source.
type vectorFile struct{ oneFile }

func (vectorFile) Write(_ context.Context, path string, src layout.Origin, _ []layout.Layer, _ func(string) (*quant.Weight, error)) error {
	v, err := src.Vector(testNorm)
	if err != nil {
		return err
	}
	data := make([]byte, 4*len(v))
	if err := safetensors.EncodeFloat32(data, safetensors.F32, v); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o666)
}

// A File is given a source with the changed tensors.
func TestPutDenseFile(t *testing.T) {
	source := openModel(t, writeModel(t, safetensors.F16))
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: source, Format: vectorFile{}, Layers: layerNames()}
	w, err := Create(o)
	require.NoError(t, err)
	require.NoError(t, w.PutDense(testNorm, eighths(64, -3)))
	putAll(t, w, testWeights())
	require.NoError(t, w.Finish(t.Context()))
	data, err := os.ReadFile(o.Out)
	require.NoError(t, err)
	v := make([]float32, 64)
	require.NoError(t, safetensors.DecodeFloat32(v, safetensors.F32, data))
	require.Equal(t, eighths(64, -3), v)
	v, err = source.Vector(testNorm)
	require.NoError(t, err)
	require.NotEqual(t, eighths(64, -3), v, "the source itself stays what it is")
}
