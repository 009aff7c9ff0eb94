package main

import (
	"context"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

func TestPictures(t *testing.T) {
	dir := t.TempDir()
	o := &options{model: "../../../testdata/tinyllama-2m", text: "../../../testdata/tinyllama-2m-text/calibration.txt", out: dir, samples: 2, seqLen: 64, bits: 3, group: 64, perDocument: true}
	require.NoError(t, run(context.Background(), o))
	for _, name := range []string{"tinyllama-2m-sensitivity.png", "tinyllama-2m-axes.png"} {
		f, err := os.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		defer f.Close()
		picture, err := png.Decode(f)
		require.NoError(t, err, name)
		colors := map[any]bool{}
		for x := range picture.Bounds().Dx() {
			for y := range picture.Bounds().Dy() {
				colors[picture.At(x, y)] = true
			}
		}
		require.Greater(t, len(colors), 10, name)
	}
	o.model = ""
	require.ErrorContains(t, run(context.Background(), o), "-model")
}

// TestCells: a map has the mean of each cell, the first output at the top.
func TestCells(t *testing.T) {
	m := tensor.New(2*cells, cells)
	for r := range m.Rows {
		for j := range m.Row(r) {
			m.Row(r)[j] = 1
		}
	}
	m.Row(0)[3], m.Row(1)[3] = 100, 300
	s := &sensitive{fisher: m}
	s.concentrate()
	require.InDelta(t, (398+float64(2*cells))/(398+float64(2*cells*cells)), s.inputs, 1e-12)
	g := cellsOf(s)
	require.InDelta(t, math.Log10(200), g.Z(3, cells-1), 1e-12)
	require.Zero(t, g.Z(3, 0))
}

func TestPlaces(t *testing.T) {
	block, role, err := placeOf("model.layers.12.self_attn.q_proj")
	require.NoError(t, err)
	require.Equal(t, 12, block)
	require.Equal(t, "q_proj", role)
	_, _, err = placeOf("lm_head")
	require.Error(t, err)
}
