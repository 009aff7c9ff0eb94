package quant_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// outputs is x·wᵀ in float64.
func outputs(x, w *tensor.Matrix) [][]float64 {
	y := make([][]float64, x.Rows)
	for i := range y {
		y[i] = make([]float64, w.Rows)
		for r := range y[i] {
			for j, v := range x.Row(i) {
				y[i][r] += float64(v) * float64(w.At(r, j))
			}
		}
	}
	return y
}

// The loss is the squared error of the layer's output, ‖X Eᵀ‖².
func TestLossIsTheOutputError(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	x, w := normal(rng, 50, 33), normal(rng, 21, 33)
	h := quant.NewCalibration(x, 1).H
	q := rtn(t, w, quant.Scheme{Bits: 3, GroupSize: 16, Axis: quant.IC}, nil).Dequantize()
	yw, yq := outputs(x, w), outputs(x, q)
	wantLoss, wantSize := make([]float64, w.Rows), make([]float64, w.Rows)
	var total float64
	for i := range yw {
		for r, y := range yw[i] {
			wantSize[r] += y * y
			wantLoss[r] += (y - yq[i][r]) * (y - yq[i][r])
		}
	}
	loss, size := quant.RowLosses(w, q, h, 1), quant.RowLosses(w, nil, h, 1)
	var mean, sizes float64
	for r := range loss {
		require.InEpsilon(t, wantLoss[r], loss[r], 1e-5)
		require.InEpsilon(t, wantSize[r], size[r], 1e-5)
		total += wantLoss[r]
		sizes += wantSize[r]
		mean += wantLoss[r] / wantSize[r] / float64(len(loss))
	}
	require.InEpsilon(t, total, quant.Loss(w, q, h, 1), 1e-5)
	require.InEpsilon(t, mean, quant.RelativeLoss(loss, size), 1e-5)
	require.Equal(t, loss, quant.RowLosses(w, q, h, 8))
	for _, l := range quant.RowLosses(w, w, h, 1) {
		require.Zero(t, l)
	}
}

// The relative loss does not change when output rows are scaled; the plain
// one is then a matter of the largest row.
func TestRelativeLossIgnoresRowScale(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	x, w := normal(rng, 40, 24), normal(rng, 16, 24)
	h := quant.NewCalibration(x, 1).H
	q := rtn(t, w, quant.Scheme{Bits: 2, GroupSize: 8}, nil).Dequantize()
	relative := func() float64 {
		return quant.RelativeLoss(quant.RowLosses(w, q, h, 1), quant.RowLosses(w, nil, h, 1))
	}
	loss, before := quant.Loss(w, q, h, 1), relative()
	for r := range w.Rows {
		for j := range w.Cols {
			f := float32(int(1) << (r % 7))
			w.Data[r*w.Cols+j] *= f
			q.Data[r*w.Cols+j] *= f
		}
	}
	require.InEpsilon(t, before, relative(), 1e-6)
	require.Greater(t, quant.Loss(w, q, h, 1), 100*loss)
}

func TestRelativeLossEdges(t *testing.T) {
	require.Zero(t, quant.RelativeLoss(nil, nil))
	require.Zero(t, quant.RelativeLoss([]float64{0, 0}, []float64{0, 0}))
	require.InEpsilon(t, 1.5, quant.RelativeLoss([]float64{1e-9, 1}, []float64{0, 1}), 1e-6, "a row of size 0 counts, but not without end")
	require.InEpsilon(t, 0.375, quant.RelativeLoss([]float64{1, 1}, []float64{4, 2}), 1e-6)
	require.Equal(t, 6.5, quant.Sum([]float64{1, 2, 3.5}))
	require.Zero(t, quant.Sum(nil))
}
