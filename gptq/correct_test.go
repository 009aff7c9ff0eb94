package gptq_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// streams are what a layer would see and what it will see, [tokens, in], and
// what the residual stream lacks, [tokens, out].
type streams struct{ x, xq, r *tensor.Matrix }

func newStreams(rng *rand.Rand, tokens, in, out int) streams {
	s := streams{x: correlated(rng, tokens, in), r: tensor.New(tokens, out)}
	s.xq = s.x.Clone()
	for i := range tokens {
		for j := range in { // some of what is lost can be told from what is left
			s.xq.Data[i*in+j] += 0.2*s.x.At(i, (j+3)%in) + 0.2*float32(rng.NormFloat64())
		}
		for k := range out {
			s.r.Set(i, k, 0.3*s.x.At(i, k%in)+float32(rng.NormFloat64()))
		}
	}
	return s
}

func (s streams) calibration(residual bool) *quant.Calibration {
	c := quant.NewPairCollector(s.x.Cols)
	r := s.r
	if !residual {
		r = nil
	}
	c.AddPair(s.x.Clone(), s.xq, r, 1)
	return c.Calibration()
}

// shift solves the normal equations of X_q dᵀ ≈ (X-X_q) wᵀ + R with damping,
// in float64, and returns dᵀ [in, out] and the right-hand side.
func shift(t *testing.T, w *tensor.Matrix, s streams, residual bool, damping float64) (d, rhs *mat.Dense, h *mat.SymDense) {
	x, xq := dense(s.x), dense(s.xq)
	d, rhs, h = new(mat.Dense), new(mat.Dense), mat.NewSymDense(w.Cols, nil)
	var lost, y mat.Dense
	lost.Sub(x, xq)
	y.Mul(&lost, dense(w).T())
	if residual {
		y.Add(&y, dense(s.r))
	}
	rhs.Mul(xq.T(), &y)
	h.SymOuterK(1, xq.T())
	damped := mat.NewSymDense(w.Cols, nil)
	damped.CopySym(h)
	for j := range w.Cols {
		damped.SetSym(j, j, h.At(j, j)+damping*mat.Trace(h)/float64(w.Cols))
	}
	var chol mat.Cholesky
	require.True(t, chol.Factorize(damped))
	require.NoError(t, chol.SolveTo(d, rhs))
	return d, rhs, h
}

func moved(w, to *tensor.Matrix) *mat.Dense {
	var d mat.Dense
	d.Sub(dense(to), dense(w))
	return mat.DenseCopyOf(d.T())
}

func requireNear(t *testing.T, want, got *mat.Dense) {
	t.Helper()
	var d mat.Dense
	d.Sub(want, got)
	require.Less(t, mat.Norm(&d, 2), 1e-3*mat.Norm(want, 2))
}

// Without halves to compare, the correction is the least-squares solution.
func TestCorrectIsLeastSquares(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	const in, out = 150, 40 // more than a block of the triangular solver
	w := normal(rng, out, in)
	s := newStreams(rng, 400, in, out)
	for _, residual := range []bool{false, true} {
		for _, damping := range []float64{0, 0.1} {
			for _, strength := range []float64{0.5, 1} {
				cal := s.calibration(residual)
				cal.Halves = [2]*quant.Calibration{}
				before := w.Clone()
				got, err := gptq.Correct(w, cal, gptq.Correction{Strength: strength, Damping: damping}, 1)
				require.NoError(t, err)
				require.Equal(t, before, w)
				d, _, _ := shift(t, w, s, residual, max(damping, gptq.DefaultDamping))
				d.Scale(strength, d)
				requireNear(t, d, moved(w, got))
				again, err := gptq.Correct(w, cal, gptq.Correction{Strength: strength, Damping: damping}, 8)
				require.NoError(t, err)
				require.Equal(t, got, again)
			}
		}
	}
}

// With halves, the correction goes as far as each half bears out on the other.
func TestCorrectTrustsWhatHalvesAgreeOn(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	const in, out = 30, 12
	w := normal(rng, out, in)
	for _, tokens := range []int{24, 80, 2000} {
		for _, residual := range []bool{false, true} {
			s := newStreams(rng, tokens, in, out)
			if tokens == 80 { // nothing in it can be told from the inputs
				s.r = normal(rng, tokens, out)
				for i := range s.r.Data {
					s.r.Data[i] *= 100
				}
			}
			got, err := gptq.Correct(w, s.calibration(residual), gptq.Correction{Strength: 1}, 1)
			require.NoError(t, err)
			var half [2]streams
			for i := range half {
				part := func(m *tensor.Matrix) *tensor.Matrix {
					return m.View(i*tokens/2, (i+1)*tokens/2, 0, m.Cols).Clone()
				}
				half[i] = streams{part(s.x), part(s.xq), part(s.r)}
			}
			var gain, cost float64
			for i := range half {
				d, _, _ := shift(t, w, half[i], residual, gptq.DefaultDamping)
				_, rhs, h := shift(t, w, half[1-i], residual, gptq.DefaultDamping)
				var hd, dhd, db mat.Dense
				hd.Mul(h, d)
				dhd.Mul(d.T(), &hd)
				db.Mul(d.T(), rhs)
				gain, cost = gain+mat.Trace(&db), cost+mat.Trace(&dhd)
			}
			a := min(max(gain/cost, 0), 1)
			if a > 0 {
				a = 1 / (1 + (1/a-1)/2) // twice the tokens
			}
			d, _, _ := shift(t, w, s, residual, gptq.DefaultDamping)
			d.Scale(a, d)
			requireNear(t, d, moved(w, got))
			if tokens == 2000 {
				require.Greater(t, a, 0.9)
			} else if tokens == 80 && residual {
				require.Less(t, a, 0.5)
			}
		}
	}
}

// On other text than it was fitted to, the corrected layer is nearer to the
// unquantized stream.
func TestCorrectHelpsElsewhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	const in, out = 30, 20
	w := normal(rng, out, in)
	seen := newStreams(rng, 3000, in, out)
	rest := streams{seen.x.View(1500, 3000, 0, in).Clone(), seen.xq.View(1500, 3000, 0, in).Clone(), seen.r.View(1500, 3000, 0, out).Clone()}
	seen = streams{seen.x.View(0, 1500, 0, in).Clone(), seen.xq.View(0, 1500, 0, in).Clone(), seen.r.View(0, 1500, 0, out).Clone()}
	for _, residual := range []bool{false, true} {
		got, err := gptq.Correct(w, seen.calibration(residual), gptq.Correction{Strength: 1}, 1)
		require.NoError(t, err)
		lacks := func(v *tensor.Matrix) float64 {
			var want, y mat.Dense
			want.Mul(dense(rest.x), dense(w).T())
			if residual {
				want.Add(&want, dense(rest.r))
			}
			y.Mul(dense(rest.xq), dense(v).T())
			want.Sub(&want, &y)
			return mat.Norm(&want, 2)
		}
		require.Less(t, lacks(got), 0.8*lacks(w))
	}
}

func TestCorrectHasNothingToDo(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	w := normal(rng, 9, 14)
	s := newStreams(rng, 60, 14, 9)
	same := streams{s.x, s.x, tensor.New(60, 9)}
	for _, residual := range []bool{false, true} {
		got, err := gptq.Correct(w, same.calibration(residual), gptq.Correction{Strength: 1}, 1)
		require.NoError(t, err)
		require.Equal(t, w, got, "both streams are the same")
	}
	got, err := gptq.Correct(w, quant.NewCalibration(s.xq, 1), gptq.Correction{Strength: 1}, 1)
	require.NoError(t, err)
	require.Same(t, w, got, "no second stream")
	got, err = gptq.Correct(w, s.calibration(true), gptq.Correction{}, 1)
	require.NoError(t, err)
	require.Same(t, w, got, "strength 0")

	// Halves that contradict each other.
	for i := 30; i < 60; i++ {
		for j := range 14 {
			s.x.Set(i, j, s.x.At(i-30, j))
			s.xq.Set(i, j, s.xq.At(i-30, j))
			s.x.Set(i, j, 2*s.xq.At(i, j)-s.x.At(i, j))
		}
	}
	got, err = gptq.Correct(w, s.calibration(false), gptq.Correction{Strength: 1}, 1)
	require.NoError(t, err)
	require.Equal(t, w, got)

	// Inputs that never come.
	got, err = gptq.Correct(w, &quant.Calibration{H: tensor.New(14, 14), Cross: tensor.New(14, 14), Tokens: 3}, gptq.Correction{Strength: 1}, 1)
	require.NoError(t, err)
	require.Equal(t, w, got)
}

func TestCorrectNotFinite(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	w := normal(rng, 9, 14)
	for _, at := range [][2]int{{3, 3}, {2, 9}} {
		cal := newStreams(rng, 60, 14, 9).calibration(true)
		nan := float32(math.NaN())
		cal.H.Set(at[0], at[1], nan)
		cal.H.Set(at[1], at[0], nan)
		_, err := gptq.Correct(w, cal, gptq.Correction{Strength: 1}, 1)
		require.ErrorIs(t, err, gptq.ErrNotFinite)
		cal.Halves = [2]*quant.Calibration{}
		_, err = gptq.Correct(w, cal, gptq.Correction{Strength: 1}, 1)
		require.ErrorIs(t, err, gptq.ErrNotFinite)
	}
}

// TestCorrectAll: it is Correct, weight by weight, with the same bits.
func TestCorrectAll(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	const in, out = 40, 24
	s := newStreams(rng, 90, in, out)
	weights := []*tensor.Matrix{correlated(rng, out, in), tensor.New(out, in), correlated(rng, out, in)}
	collect := func() *quant.Collector {
		c := quant.NewPairCollector(in)
		c.AddPair(s.x.Clone(), s.xq, s.r, 1)
		return c
	}
	half := func(cal *quant.Calibration) *quant.Calibration {
		scaled := func(m *tensor.Matrix, f float32) *tensor.Matrix {
			if m == nil {
				return nil
			}
			m = m.Clone()
			for i := range m.Data {
				m.Data[i] *= f
			}
			return m
		}
		c := &quant.Calibration{H: scaled(cal.H, 0.25), Cross: scaled(cal.Cross, 0.25), Residual: scaled(cal.Residual, 0.5), Tokens: cal.Tokens}
		for i, h := range cal.Halves {
			if h != nil {
				c.Halves[i] = &quant.Calibration{H: scaled(h.H, 0.25), Cross: scaled(h.Cross, 0.25), Residual: scaled(h.Residual, 0.5)}
			}
		}
		return c
	}
	for _, scale := range []func(*quant.Calibration) *quant.Calibration{nil, half} {
		c := gptq.Correction{Strength: 0.7}
		got, cal, err := gptq.CorrectAll(weights, collect(), scale, c, 2)
		require.NoError(t, err)
		want := collect().Calibration()
		if scale != nil {
			want = scale(want)
		}
		require.Equal(t, want.H, cal.H)
		require.Equal(t, want.Tokens, cal.Tokens)
		require.Nil(t, cal.Cross)
		require.Nil(t, cal.Halves[0])
		for k, w := range weights {
			m, err := gptq.Correct(w, want, c, 2)
			require.NoError(t, err)
			require.Equal(t, m, got[k])
		}
		require.NotEqual(t, weights[0], got[0])
	}
	s.xq.Data[3] = float32(math.NaN())
	_, _, err := gptq.CorrectAll(weights, collect(), nil, gptq.Correction{Strength: 1}, 2)
	require.ErrorIs(t, err, gptq.ErrNotFinite)
	_, _, err = gptq.CorrectAll(weights, collect(), nil, gptq.Correction{Strength: 2}, 2)
	require.ErrorIs(t, err, gptq.ErrOptions)
}
