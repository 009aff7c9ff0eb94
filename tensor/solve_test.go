package tensor_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/tensor"
)

// positive returns a well-conditioned positive definite matrix; above the
// diagonal is what is asked for.
func positive(n int, above float32) *tensor.Matrix {
	h := tensor.New(n, n)
	tensor.SyrkT(random(2*n, n, uint64(n)), h, 0)
	for i := range n {
		h.Set(i, i, h.At(i, i)+5)
		for j := i + 1; j < n; j++ {
			h.Set(i, j, above)
		}
	}
	return h
}

// lower is the lower triangle of m in float64, upper the same mirrored.
func lower(m *tensor.Matrix) *mat.TriDense {
	t := mat.NewTriDense(m.Rows, mat.Lower, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i)[:i+1] {
			t.SetTri(i, j, float64(v))
		}
	}
	return t
}

func mirrored(m *tensor.Matrix) *mat.SymDense {
	s := mat.NewSymDense(m.Rows, nil)
	for i := range m.Rows {
		for j, v := range m.Row(i)[:i+1] {
			s.SetSym(i, j, float64(v))
		}
	}
	return s
}

// What is solved multiplies back to what was given; nothing is read above
// the diagonal and nothing written outside of a view.
func TestSolveLower(t *testing.T) {
	nan := float32(math.NaN())
	rapid.Check(t, func(t *rapid.T) {
		n, m := rapid.IntRange(1, 200).Draw(t, "n"), rapid.IntRange(1, 40).Draw(t, "m")
		trans := rapid.Bool().Draw(t, "trans")
		l := positive(n, nan)
		require.Equal(t, -1, tensor.Cholesky(l, 0))
		around := random(n+2, m+3, 2)
		want := around.Clone()
		x := around.View(1, n+1, 2, m+2)
		b := x.Clone()
		tensor.SolveLower(trans, l, x, 1)
		var back mat.Dense
		if trans {
			back.Mul(lower(l).T(), dense(x))
		} else {
			back.Mul(lower(l), dense(x))
		}
		requireNear(t, &back, b, 1e-4*math.Sqrt(float64(n)))
		more := b.Clone()
		tensor.SolveLower(trans, l, more, 5)
		require.Equal(t, more.Data, x.Clone().Data, "workers")
		x.CopyFrom(b)
		require.Equal(t, want.Data, around.Data, "outside")
	})
}

func TestCholeskySolve(t *testing.T) {
	for _, n := range []int{1, 2, 63, 64, 65, 150} {
		h := positive(n, float32(math.NaN()))
		l := h.Clone()
		require.Equal(t, -1, tensor.Cholesky(l, 0))
		b := random(n, 20, 2)
		x := b.Clone()
		tensor.CholeskySolve(l, x, 0)
		var back mat.Dense
		back.Mul(mirrored(h), dense(x))
		requireNear(t, &back, b, 1e-3)

		v := make([]float64, n)
		for i := range v {
			v[i] = float64(b.At(i, 3))
		}
		tensor.CholeskySolveVec(l, v)
		var want mat.VecDense
		want.MulVec(mirrored(h), mat.NewVecDense(n, v))
		for i := range v {
			require.InDelta(t, want.AtVec(i), b.At(i, 3), 1e-3)
			require.InDelta(t, v[i], x.At(i, 3), 1e-5, "the vector's solution is the column's")
		}
	}
	h := positive(40, 0)
	h.Set(3, 3, float32(math.Inf(-1)))
	require.Equal(t, 3, tensor.Cholesky(h, 0))
}

func TestCholeskyDamped(t *testing.T) {
	x := random(3, 10, 1) // rank 3 of 10
	h, l := tensor.New(10, 10), tensor.New(10, 10)
	tensor.SyrkT(x, h, 0)
	var tried []float64
	fill := func(damping float64) {
		tried = append(tried, damping)
		l.CopyFrom(h)
		for i := range 10 {
			l.Set(i, i, l.At(i, i)+float32(damping))
		}
	}
	d, ok := tensor.CholeskyDamped(l, 1e-12, fill, 0)
	require.True(t, ok)
	require.Equal(t, tried[len(tried)-1], d)
	require.Greater(t, len(tried), 1, "damping had to be raised")
	for i := 1; i < len(tried); i++ {
		require.Equal(t, 10*tried[i-1], tried[i])
	}
	var back mat.Dense
	back.Mul(lower(l), lower(l).T())
	for i := range 10 {
		for j := range i {
			require.InDelta(t, h.At(i, j), back.At(i, j), 1e-4)
		}
		require.InDelta(t, float64(h.At(i, i))+d, back.At(i, i), 1e-4)
	}

	h.Set(4, 4, float32(math.NaN()))
	tried = nil
	d, ok = tensor.CholeskyDamped(l, 1, fill, 0)
	require.False(t, ok)
	require.Equal(t, []float64{1, 10, 100, 1000}, tried)
	require.Greater(t, d, 1000.0)
	for _, damping := range []float64{0, -1, math.NaN()} {
		_, ok = tensor.CholeskyDamped(l, damping, fill, 0)
		require.False(t, ok, "%g cannot be raised", damping)
	}
}

func TestSolveSPD(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 40).Draw(t, "n")
		h := positive(n, 0)
		a, b := make([]float64, n*n), make([]float64, n)
		for i := range n {
			b[i] = float64(i%7) - 3
			for j := range n {
				a[i*n+j] = math.NaN()
				if j <= i {
					a[i*n+j] = float64(h.At(i, j))
				}
			}
		}
		x := append([]float64(nil), b...)
		require.True(t, tensor.SolveSPD(a, x))
		if n == 0 {
			return
		}
		var back mat.VecDense
		back.MulVec(mirrored(h), mat.NewVecDense(n, x))
		for i := range n {
			require.InDelta(t, b[i], back.AtVec(i), 1e-11)
		}
	})
	for _, bad := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		b := []float64{1, 2}
		require.False(t, tensor.SolveSPD([]float64{1, 0, 0, bad}, b))
		require.Equal(t, []float64{1, 2}, b, "what cannot be solved stays")
	}
}

func TestSolvePanics(t *testing.T) {
	const triangular = "tensor: triangular solve of mismatched shapes"
	l := tensor.New(3, 3)
	require.PanicsWithValue(t, triangular, func() { tensor.SolveLower(true, l, tensor.New(4, 3), 1) })
	require.PanicsWithValue(t, triangular, func() { tensor.SolveLower(true, tensor.New(3, 4), l, 1) })
	require.PanicsWithValue(t, triangular, func() { tensor.CholeskySolveVec(l, make([]float64, 4)) })
	require.PanicsWithValue(t, "tensor: solve of mismatched shapes", func() { tensor.SolveSPD(make([]float64, 8), make([]float64, 3)) })
}
