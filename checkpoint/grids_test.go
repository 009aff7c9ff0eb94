package checkpoint

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Finished layers on grids that are not uniform outlive a run, bit by bit; one
// whose shifts were damaged, or that is on another grid now, is put again.
func TestWriterKeepsGrids(t *testing.T) {
	source := writeModel(t, safetensors.F32)
	src := openModel(t, source)
	grid, _ := kquant.Of(gguf.Q5_1)
	weights := map[string]*quant.Weight{}
	var layers []layout.Layer
	for _, l := range testLinears {
		m, err := src.Matrix(l.name + layout.WeightSuffix)
		require.NoError(t, err)
		s := grid.Scheme()
		s.Clip, s.ClipInput = true, true
		weights[l.name], err = quant.RTN{}.Quantize(t.Context(), m, s, nil)
		require.NoError(t, err)
		layers = append(layers, layout.LayerOf(l.name, weights[l.name]))
	}
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: src, Format: dense.Format{}, Layers: layers}
	w, err := Create(o)
	require.NoError(t, err)
	putAll(t, w, weights)
	require.NoError(t, w.Close())

	name := testLinears[2].name
	o.Resume = true
	w, err = Create(o)
	require.NoError(t, err)
	for _, l := range testLinears {
		back, err := w.Weight(l.name)
		require.NoError(t, err)
		require.Equal(t, weights[l.name], back)
	}
	require.NoError(t, w.Close())

	file := filepath.Join(o.Out+PartialSuffix, partial.LayerFolder, "layer-"+name, "model.safetensors")
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	shifts := make([]byte, 4*len(weights[name].Shifts))
	require.Negative(t, wire.Encode(shifts, wire.F32, weights[name].Shifts))
	at := bytes.Index(data, shifts)
	require.Positive(t, at)
	data[at+5] ^= 1
	require.NoError(t, os.WriteFile(file, data, 0o666))
	other, _ := kquant.Of(gguf.Q5_0)
	changed := o
	changed.Layers = append([]layout.Layer(nil), layers...)
	changed.Layers[0].Scheme = other.Scheme()
	w, err = Create(changed)
	require.NoError(t, err)
	require.Len(t, w.Damaged(), 2)
	damaged := errors.Join(w.Damaged()...)
	require.ErrorContains(t, damaged, `grid "Q5_1", want "Q5_0"`)
	require.ErrorContains(t, damaged, "checksum of the shifts")
	require.False(t, w.Done(name))
	putAll(t, w, weights)
	require.NoError(t, w.Finish(t.Context()))
	m := openModel(t, o.Out)
	for name, q := range weights {
		got, err := m.Matrix(name + layout.WeightSuffix)
		require.NoError(t, err)
		require.Equal(t, q.Dequantize().Data, got.Data)
	}
}
