package checkpoint

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// A matrix in pieces is the matrix.
func TestRowsAndColumns(t *testing.T) {
	name := testLinears[1].name + ".weight"
	for _, dtype := range []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16} {
		m := openModel(t, writeModel(t, dtype))
		want, err := m.Matrix(name)
		require.NoError(t, err)
		rows, cols := want.Rows, want.Cols
		stored, _ := m.DType(name)
		var v []float32
		var h []uint16
		var c tensor.Matrix
		for _, p := range [][2]int{{0, 1}, {3, 40}, {0, rows}, {rows, rows}} {
			v, err = m.Rows(name, p[0], p[1], v)
			require.NoError(t, err)
			require.Equal(t, want.Data[p[0]*cols:p[1]*cols], v)
			h, err = m.Halves(name, p[0], p[1], h)
			if stored == safetensors.F32 {
				require.ErrorContains(t, err, "dtype F32, want F16 or BF16")
				continue
			}
			require.NoError(t, err)
			wide := make([]float32, len(h))
			if stored == safetensors.BF16 {
				tensor.BF16ToF32(wide, h)
			} else {
				tensor.F16ToF32(wide, h)
			}
			require.Equal(t, want.Data[p[0]*cols:p[1]*cols], wide)
		}
		for _, p := range [][2]int{{0, 1}, {5, 38}, {0, cols}} {
			require.NoError(t, m.Columns(name, p[0], p[1], &c))
			require.Equal(t, p[1]-p[0], c.Rows)
			for i := range c.Rows {
				for r := range rows {
					require.Equal(t, want.At(r, p[0]+i), c.At(i, r))
				}
			}
		}
		require.NoError(t, m.CheckFinite(name))
		_, err = m.Rows(name, 1, rows+1, nil)
		require.ErrorContains(t, err, "rows 1 to")
		require.ErrorContains(t, m.Columns(name, -1, 1, &c), "columns -1 to 1")
		// Rows of a vector are its elements.
		v, err = m.Rows(testNorm, 1, 3, nil)
		require.NoError(t, err)
		require.Len(t, v, 2)
	}
}

// The same value has the same text however it is read.
func TestNotFiniteText(t *testing.T) {
	tn, err := layout.FloatTensor("a", safetensors.F32, []float32{1, 2, 3, 4, 5, float32(math.Inf(-1))}, 3, 2)
	require.NoError(t, err)
	m, err := newModel("m", []byte("{}"), formattest.NewMemory(tn), native.Format{}, nil)
	require.NoError(t, err)
	const want = `memory.safetensors: tensor "a": element 5 is -Inf`
	_, err = m.Matrix("a")
	require.EqualError(t, err, want)
	_, err = m.Rows("a", 2, 3, nil)
	require.EqualError(t, err, want)
	require.EqualError(t, m.CheckFinite("a"), want)
}

// twice is a format whose plan no file can have.
type twice struct{ native.Format }

func (f twice) Plan(l layout.Layer) ([]layout.Spec, error) {
	specs, err := f.Format.Plan(l)
	return append(specs, specs...), err
}

// A layout that cannot be written is an error of Create, or of Finish.
func TestWriterCannotLayOut(t *testing.T) {
	source := openModel(t, writeModel(t, safetensors.F16))
	layers := layerNames()
	for i := range layers {
		layers[i].Scheme = quant.Scheme{Bits: 4, GroupSize: 32}
	}
	out := filepath.Join(t.TempDir(), "out")
	_, err := Create(WriterOptions{Out: out, Source: source, Format: twice{}, Layers: layers, Direct: true})
	require.ErrorIs(t, err, safetensors.ErrInvalid)
	require.NoDirExists(t, out+PartialSuffix)
	w, err := Create(WriterOptions{Out: out, Source: source, Format: twice{}, Layers: layerNames()})
	require.NoError(t, err)
	putAll(t, w, testWeights())
	require.ErrorIs(t, w.Finish(t.Context()), safetensors.ErrInvalid)
	require.NoFileExists(t, out)
}
