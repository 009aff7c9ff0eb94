package adadim_test

import (
	"context"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var ctx = context.Background()

var normal, correlated = testkit.Normal, testkit.Correlated

// scaled returns m with row r times row(r) and column j times col(j); nil is 1.
func scaled(m *tensor.Matrix, row, col func(int) float32) *tensor.Matrix {
	m = m.Clone()
	for r := range m.Rows {
		for j := range m.Cols {
			if row != nil {
				m.Data[r*m.Stride+j] *= row(r)
			}
			if col != nil {
				m.Data[r*m.Stride+j] *= col(j)
			}
		}
	}
	return m
}

func choose(t require.TestingT, q adadim.Quantizer, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, *adadim.Decision) {
	out, d, err := q.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal}, s)
	require.NoError(t, err)
	require.NoError(t, out.Validate())
	return out, d
}

func quantize(t require.TestingT, q quant.Quantizer, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) *quant.Weight {
	out, err := q.Quantize(ctx, w, s, cal)
	require.NoError(t, err)
	return out
}
