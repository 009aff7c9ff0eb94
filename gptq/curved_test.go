package gptq_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// curvedLoss is tr(O E H Eᵀ) in float64, and the sum of magnitudes of its terms.
func curvedLoss(w, approx, h, o *tensor.Matrix) (loss, terms float64) {
	e := tensor.New(w.Rows, w.Cols)
	for i := range e.Rows {
		for j := range e.Row(i) {
			e.Set(i, j, approx.At(i, j)-w.At(i, j))
		}
	}
	for r := range e.Rows {
		for s := range e.Rows {
			for i, a := range e.Row(r) {
				for j, b := range e.Row(s) {
					v := float64(o.At(r, s)) * float64(a) * float64(h.At(i, j)) * float64(b)
					loss += v
					terms += math.Abs(v)
				}
			}
		}
	}
	return loss, terms
}

// curvature is that of random gradients, a constant times it.
func curvature(rng *rand.Rand, out int, factor float32) *tensor.Matrix {
	o := quant.NewCalibration(correlated(rng, 4*out, out), 1).H.Clone()
	for i := range o.Data {
		o.Data[i] *= factor
	}
	return o
}

// Refinement under curvature of any weight: the loss is no higher, and nothing but codes
// and scales changes.
func TestImproveCurved(t *testing.T) {
	tried, better := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 40).Draw(t, "out"), rapid.IntRange(1, 24).Draw(t, "in")
		s := schemes(t, out, in)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w, x := normal(rng, out, in), correlated(rng, rapid.IntRange(1, 90).Draw(t, "tokens"), in)
		plain := quant.NewCalibration(x, 1)
		cal := plain.WithOutput(curvature(rng, out, float32(rng.ExpFloat64())))
		if out > 2 && rapid.Bool().Draw(t, "dead") { // an output that does not matter
			for i := range out {
				cal.Output.Set(i, 1, 0)
				cal.Output.Set(1, i, 0)
			}
		}
		q := quantize(t, quant.RTN{Workers: 1}, w, s, cal)
		if rapid.Bool().Draw(t, "solved") {
			q = quantize(t, gptq.Quantizer{Workers: 1}, w, s, cal)
		}
		workers := rapid.IntRange(1, 3).Draw(t, "workers")
		got, err := gptq.Improve(context.Background(), w, q, cal, gptq.Refine{Rounds: rapid.IntRange(1, 3).Draw(t, "rounds")}, workers)
		require.NoError(t, err)
		require.NoError(t, got.Validate())
		require.Equal(t, q.Zeros, got.Zeros)
		require.Equal(t, q.Scheme, got.Scheme)
		old, oldTerms := curvedLoss(w, q.Dequantize(), cal.H, cal.Output)
		now, nowTerms := curvedLoss(w, got.Dequantize(), cal.H, cal.Output)
		rounding := 1e-5 * max(oldTerms, nowTerms) // few tokens let large errors cancel
		require.LessOrEqual(t, now, old+rounding)
		require.InDelta(t, now, quant.CurvedLoss(w, got.Dequantize(), cal.H, cal.Output, 1), rounding)
		rows, terms := rowLosses(w, got.Dequantize(), cal.H)
		for r := range rows {
			require.InDelta(t, rows[r], got.RowLoss[r], 1e-5*terms[r], "loss of row %d", r)
		}
		again, err := gptq.Improve(context.Background(), w, q, cal, gptq.Refine{Rounds: 2}, 1)
		require.NoError(t, err)
		other, err := gptq.Improve(context.Background(), w, q, cal, gptq.Refine{Rounds: 2}, 3)
		require.NoError(t, err)
		require.Equal(t, again, other, "workers")
		tried++
		if now < 0.9*old {
			better++
		}
	})
	require.Greater(t, better, tried/8, "refinement hardly ever did anything")
}

// At the end no single code can be changed for the better.
func TestImproveCurvedEndsAtAMinimum(t *testing.T) {
	for _, s := range []quant.Scheme{
		{Bits: 3, GroupSize: 8}, {Bits: 3, GroupSize: 5, Axis: quant.IC}, {Bits: 2, GroupSize: 4, Axis: quant.IC, Strided: true},
	} {
		s.ScaleType = quant.F32
		rng := rand.New(rand.NewPCG(1, uint64(s.GroupSize)))
		const out, in = 40, 16
		w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 60, in), 1).WithOutput(curvature(rng, out, 3))
		q, err := gptq.Improve(context.Background(), w, quantize(t, quant.RTN{}, w, s, nil), cal, gptq.Refine{Rounds: 40, Sweeps: 40}, 1)
		require.NoError(t, err)
		best, terms := curvedLoss(w, q.Dequantize(), cal.H, cal.Output)
		grid := quant.GridOf(s)
		now := codes(q)
		for r := range out {
			for c := range in {
				line, at := r, c
				if s.Axis == quant.IC {
					line, at = c, r
				}
				k := line*q.Groups() + q.Group(at)
				for _, step := range []int{-1, 1} {
					u := int(now[r*in+c]) + step
					if u < 0 || u > s.MaxCode() {
						continue
					}
					approx := q.Dequantize()
					var v [1]float32
					grid.Values(v[:], []uint8{uint8(u)}, q.Scales[k:k+1], []float32{q.Shift(k)}, 1)
					approx.Set(r, c, v[0])
					loss, _ := curvedLoss(w, approx, cal.H, cal.Output)
					require.GreaterOrEqual(t, loss, best-1e-5*terms, "row %d, column %d, code %d", r, c, u)
				}
			}
		}
	}
}

// Where outputs do not depend on each other nothing is taken up between rows.
func TestCurvedDiagonal(t *testing.T) {
	for _, s := range []quant.Scheme{{Bits: 3, GroupSize: 8}, {Bits: 3, GroupSize: 5, Axis: quant.IC}} {
		rng := rand.New(rand.NewPCG(3, 4))
		const out, in = 30, 24
		w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 60, in), 1)
		o := tensor.New(out, out)
		for i := range out {
			o.Set(i, i, float32(rng.ExpFloat64()))
		}
		want := quantize(t, gptq.Quantizer{}, w, s, cal)
		got := quantize(t, gptq.Quantizer{}, w, s, cal.WithOutput(o))
		require.Equal(t, codes(want), codes(got))
		require.Equal(t, want.Scales, got.Scales)
	}
}

// TestCurvedSolve compares with the definition, in float64: rows and columns by
// descending diagonal, each element rounded from what all before it have left.
func TestCurvedSolve(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const out, in = 13, 9
	s := quant.Scheme{Bits: 3, GroupSize: in}
	w, cal := normal(rng, out, in), quant.NewCalibration(correlated(rng, 60, in), 1)
	o := curvature(rng, out, 1)
	q := quantize(t, gptq.Quantizer{}, w, s, cal.WithOutput(o))
	rows, n := unitUpper(o, 0.1)
	cols, f := unitUpper(cal.H, gptq.DefaultDamping)
	grid := quant.GridOf(s)
	e := tensor.New(out, in)
	for b, j := range cols {
		for a, i := range rows {
			x := float64(w.At(i, j))
			for k := range a + 1 {
				for l := range b + 1 {
					if k != a || l != b {
						x += n[k][a] * float64(e.At(rows[k], cols[l])) * f[l][b]
					}
				}
			}
			var code [1]uint8
			var v [1]float32
			grid.Round(code[:], v[:], []float32{float32(x)}, q.Scales[i:i+1], []float32{q.Shift(i)}, 1)
			e.Set(i, j, w.At(i, j)-v[0])
			require.Equal(t, code[0], codes(q)[i*in+j], "row %d, column %d", i, j)
		}
	}
}

// unitUpper returns the order of descending diagonal of m and, in it, the unit upper
// triangular factor U of m with damping, U D Uᵀ.
func unitUpper(m *tensor.Matrix, damping float64) (order []int, u [][]float64) {
	n := m.Rows
	var mean float64
	for i := range n {
		order = append(order, i)
		mean += float64(m.At(i, i)) / float64(n)
	}
	slices.SortStableFunc(order, func(a, b int) int {
		if m.At(a, a) > m.At(b, b) {
			return -1
		}
		return 1
	})
	a := make([][]float64, n)
	u = make([][]float64, n)
	for i := range a {
		u[i] = make([]float64, n)
		for j := range n {
			a[i] = append(a[i], float64(m.At(order[i], order[j])))
		}
		a[i][i] += damping * mean
	}
	for k := n - 1; k >= 0; k-- {
		for i := range k + 1 {
			u[i][k] = a[i][k] / a[k][k]
		}
		for i := range k {
			for j := range k {
				a[i][j] -= u[i][k] * a[k][k] * u[j][k]
			}
		}
	}
	return order, u
}
