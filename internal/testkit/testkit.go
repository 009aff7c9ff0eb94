// Package testkit makes what the tests of several packages work on: matrices
// that are drawn, schemes of every kind, the codes of a weight, GGUF files in parts.
package testkit

import (
	"math/rand/v2"

	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Normal returns a matrix of independent standard normal numbers.
func Normal(rng *rand.Rand, rows, cols int) *tensor.Matrix {
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

// Correlated returns inputs [tokens, in] of a quarter as many factors as
// channels and a little of their own, some channels 20 times as large.
func Correlated(rng *rand.Rand, tokens, in int) *tensor.Matrix {
	z, mix, x := Normal(rng, tokens, in/4+1), Normal(rng, in/4+1, in), Normal(rng, tokens, in)
	tensor.Gemm(false, false, 1, z, mix, 0.5, x, 1)
	for j := 5; j < in; j += 37 {
		for i := range tokens {
			x.Data[i*in+j] *= 20
		}
	}
	return x
}

// Scheme draws any scheme that fits a weight [out, in].
func Scheme(t *rapid.T, out, in int) quant.Scheme {
	s := quant.Scheme{
		Bits:      rapid.IntRange(2, 8).Draw(t, "bits"),
		Axis:      rapid.SampledFrom([]quant.Axis{quant.OC, quant.IC}).Draw(t, "axis"),
		Symmetric: rapid.Bool().Draw(t, "sym"),
		Range:     rapid.SampledFrom([]quant.Range{quant.RangeZero, quant.RangePaper}).Draw(t, "range"),
		ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F32, quant.F16Short, quant.BF16}).Draw(t, "scale type"),
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

// Codes unpacks all codes as [out, in].
func Codes(w *quant.Weight) []uint8 {
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
