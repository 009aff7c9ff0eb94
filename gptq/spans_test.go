package gptq_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// scalesOnly is a grid without FitSpan.
type scalesOnly struct{ quant.Grid }

// On the grids of llama.cpp's blocks GPTQ loses less than rounding to nearest, and
// refinement less than GPTQ; blocks have the values bit by bit; and refinement that
// fits the stored parameters of a block together, minima too, beats one that solves
// for the scales of a row and rounds them, and without minima is no worse.
func TestBlockGrids(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 1))
	const out, in = 16, 512
	w, x := normal(rng, out, in), correlated(rng, 900, in)
	cal := func() *quant.Calibration { return quant.NewCalibration(x, 1) }
	for _, typ := range []gguf.Type{gguf.Q2_K, gguf.Q3_K, gguf.Q4_K, gguf.Q5_K, gguf.Q6_K, gguf.IQ4_XS, gguf.IQ4_NL, gguf.Q5_1, gguf.MXFP4, gguf.NVFP4} {
		t.Run(typ.String(), func(t *testing.T) {
			g, ok := kquant.Of(typ)
			require.True(t, ok)
			s := g.Scheme()
			s.Clip, s.ClipInput = true, true
			loss := func(q *quant.Weight) float64 {
				require.NoError(t, q.Validate())
				dense := q.Dequantize()
				codes, row, data := make([]uint8, in), make([]float32, in), make([]byte, typ.RowBytes(in))
				for r := range out {
					a, b := r*q.Groups(), (r+1)*q.Groups()
					q.Line(codes, r)
					require.NoError(t, g.Pack(data, codes, q.Scales[a:b], q.Shifts[a:b]))
					require.NoError(t, typ.Decode(row, data))
					require.Equal(t, dense.Row(r), row)
				}
				return quant.Loss(w, dense, cal().H, 1)
			}
			rtn := loss(quantize(t, quant.RTN{}, w, s, cal()))
			plain := quantize(t, gptq.Quantizer{Workers: 1}, w, s, cal())
			refined := quantize(t, gptq.Quantizer{Workers: 1, Refine: gptq.DefaultRefine()}, w, s, cal())
			require.Equal(t, refined, quantize(t, gptq.Quantizer{Workers: 5, Refine: gptq.DefaultRefine()}, w, s, cal()))
			require.Less(t, loss(plain), 0.75*rtn)
			require.Less(t, loss(refined), 0.97*loss(plain))
			require.InEpsilon(t, loss(refined), quant.Sum(refined.RowLoss), 1e-3)

			// From the same codes, without FitSpan.
			other := *plain
			other.Scheme.Grid = scalesOnly{g}
			q, err := gptq.Improve(t.Context(), w, &other, cal(), gptq.DefaultRefine(), 1)
			require.NoError(t, err)
			q.Scheme.Grid = g
			t.Logf("loss: nearest %.4g, GPTQ %.4g, refined %.4g; scales alone %.4g", rtn, loss(plain), loss(refined), loss(q))
			if g.Shifted() {
				require.Less(t, loss(refined), loss(q))
			} else { // the other one solves for a whole row at once
				require.Less(t, loss(refined), 1.03*loss(q))
			}
		})
	}
}

// A group index is no obstacle to fitting spans.
func TestSpansOfAnyColumns(t *testing.T) {
	rng := rand.New(rand.NewPCG(32, 1))
	const out, in = 12, 256
	w, x := normal(rng, out, in), correlated(rng, 500, in)
	g, _ := kquant.Of(gguf.Q4_K)
	q := gptq.Quantizer{Groups: gptq.GroupsDynamic, Workers: 1}
	plain := quantize(t, q, w, g.Scheme(), quant.NewCalibration(x, 1))
	require.NotNil(t, plain.GroupIndex)
	q.Refine = gptq.DefaultRefine()
	refined := quantize(t, q, w, g.Scheme(), quant.NewCalibration(x, 1))
	require.Equal(t, plain.GroupIndex, refined.GroupIndex)
	h := quant.NewCalibration(x, 1).H
	loss := func(m *tensor.Matrix) float64 { return quant.Loss(w, m, h, 1) }
	require.Less(t, loss(refined.Dequantize()), 0.97*loss(plain.Dequantize()))
}
