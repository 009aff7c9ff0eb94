package gptq_test

import (
	"context"
	"math"
	"math/rand/v2"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// schemes draws any scheme that fits a weight [out, in].
func schemes(t *rapid.T, out, in int) quant.Scheme {
	s := quant.Scheme{
		Bits:      rapid.IntRange(2, 8).Draw(t, "bits"),
		Axis:      rapid.SampledFrom([]quant.Axis{quant.OC, quant.IC}).Draw(t, "axis"),
		Symmetric: rapid.Bool().Draw(t, "sym"),
		ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F32, quant.F16Short}).Draw(t, "scale type"),
		Clip:      rapid.Bool().Draw(t, "clip"),
		ClipInput: rapid.Bool().Draw(t, "clip input"),
		MinZero:   rapid.IntRange(0, 1).Draw(t, "min zero"),
	}
	_, length := s.Lines(out, in)
	s.GroupSize = rapid.OneOf(rapid.Just(quant.WholeLine), rapid.IntRange(1, length+3)).Draw(t, "group")
	s.Strided = s.Axis == quant.IC && (s.GroupSize == quant.WholeLine || out%s.GroupSize == 0) &&
		rapid.Bool().Draw(t, "strided")
	return s
}

// normal is a matrix of independent standard normal numbers.
func normal(rng *rand.Rand, rows, cols int) *tensor.Matrix {
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

// correlated are inputs [tokens, in] of a quarter as many factors as
// channels and a little of their own, some channels 20 times as large.
func correlated(rng *rand.Rand, tokens, in int) *tensor.Matrix {
	z, mix, x := normal(rng, tokens, in/4+1), normal(rng, in/4+1, in), normal(rng, tokens, in)
	tensor.Gemm(false, false, 1, z, mix, 0.5, x, 1)
	for j := 5; j < in; j += 37 {
		for i := range tokens {
			x.Data[i*in+j] *= 20
		}
	}
	return x
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

// codes unpacks all codes as [out, in].
func codes(w *quant.Weight) []uint8 {
	out := make([]uint8, w.Out*w.In)
	line := make([]uint8, w.LineLen())
	for l := range w.Lines() {
		w.Line(line, l)
		for p, u := range line {
			if w.Scheme.Axis == quant.IC {
				out[p*w.In+l] = u
			} else {
				out[l*w.In+p] = u
			}
		}
	}
	return out
}

func quantize(t require.TestingT, q quant.Quantizer, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) *quant.Weight {
	got, err := q.Quantize(context.Background(), w, s, cal)
	require.NoError(t, err)
	require.NoError(t, got.Validate())
	return got
}
