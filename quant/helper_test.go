package quant_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
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
		Range:     rapid.SampledFrom([]quant.Range{quant.RangeZero, quant.RangePaper}).Draw(t, "range"),
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

func shape(t *rapid.T) (out, in int) {
	return rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 40).Draw(t, "in")
}

// weights draws a weight with rows of different scale, groups of one sign
// and zeros.
func weights(t *rapid.T, out, in int) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	kind := rapid.IntRange(0, 3).Draw(t, "kind")
	w := tensor.New(out, in)
	for r := range out {
		f := math.Exp2(float64(rng.IntN(8) - 4))
		for j := range in {
			v := rng.NormFloat64()
			switch {
			case kind == 1:
				v = 1 + v/100
			case kind == 2 && rng.IntN(2) == 0:
				v = 0
			case kind == 3:
				v = -math.Exp(1.5 * v)
			}
			w.Set(r, j, float32(v*f))
		}
	}
	return w
}

// normal is a matrix of independent standard normal numbers.
func normal(rng *rand.Rand, rows, cols int) *tensor.Matrix {
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

func rtn(t require.TestingT, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) *quant.Weight {
	q, err := quant.RTN{Workers: 1}.Quantize(context.Background(), w, s, cal)
	require.NoError(t, err)
	require.NoError(t, q.Validate())
	return q
}

// one quantizes a single group with axis OC.
func one(t require.TestingT, s quant.Scheme, x ...float32) (*quant.Weight, []float32) {
	s.GroupSize = quant.WholeLine
	q := rtn(t, tensor.FromSlice(1, len(x), x), s, nil)
	return q, q.Dequantize().Data
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

func workersAgree(t *testing.T, f func(workers int) *quant.Weight) {
	t.Helper()
	require.Equal(t, f(1), f(8))
}
