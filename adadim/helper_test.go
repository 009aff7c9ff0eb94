package adadim_test

import (
	"context"
	"math/rand/v2"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var ctx = context.Background()

// normal is a matrix of independent standard normal numbers.
func normal(rng *rand.Rand, rows, cols int) *tensor.Matrix {
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

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

// correlated are inputs with some channels 16 times as large as the others.
func correlated(rng *rand.Rand, tokens, in int) *tensor.Matrix {
	z, mix, x := normal(rng, tokens, in/4+1), normal(rng, in/4+1, in), normal(rng, tokens, in)
	tensor.Gemm(false, false, 1, z, mix, 1, x, 1)
	return scaled(x, nil, func(j int) float32 {
		if j%13 == 5 {
			return 16
		}
		return 1
	})
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
