package gptq_test

import (
	"context"
	"math"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

var normal, correlated, codes = testkit.Normal, testkit.Correlated, testkit.Codes

// schemes draws any scheme with the range rule that holds 0.
func schemes(t *rapid.T, out, in int) quant.Scheme {
	s := testkit.Scheme(t, out, in)
	s.Range = quant.RangeZero
	return s
}

func dense(m *tensor.Matrix) *mat.Dense {
	d := mat.NewDense(m.Rows, m.Cols, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i) {
			d.Set(i, j, float64(v))
		}
	}
	return d
}

// rowLosses is e_r H e_rᵀ in float64, and the sum of the magnitudes of its
// terms, to which float32 is exact.
func rowLosses(w, approx, h *tensor.Matrix) (loss, terms []float64) {
	loss, terms = make([]float64, w.Rows), make([]float64, w.Rows)
	e := make([]float64, w.Cols)
	for r := range loss {
		for j, v := range w.Row(r) {
			e[j] = float64(approx.At(r, j)) - float64(v)
		}
		for j, a := range e {
			for k, v := range h.Row(j) {
				loss[r] += a * float64(v) * e[k]
				terms[r] += math.Abs(a * float64(v) * e[k])
			}
		}
	}
	return loss, terms
}

func quantize(t require.TestingT, q quant.Quantizer, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) *quant.Weight {
	got, err := q.Quantize(context.Background(), w, s, cal)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	return got
}
