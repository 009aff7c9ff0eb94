package tensor_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/tensor"
)

func random(rows, cols int, seed uint64) *tensor.Matrix {
	r := rand.New(rand.NewPCG(seed, 7))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(r.NormFloat64())
	}
	return m
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

func requireNear(t require.TestingT, want mat.Matrix, got *tensor.Matrix, tol float64) {
	for i := range got.Rows {
		for j, v := range got.Row(i) {
			require.InDelta(t, want.At(i, j), v, tol, "(%d, %d)", i, j)
		}
	}
}

// Views, transposed or not, multiply as gonum has it.
func TestGemm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dim := rapid.IntRange(1, 60)
		m, n, k := dim.Draw(t, "m"), dim.Draw(t, "n"), dim.Draw(t, "k")
		ta, tb := rapid.Bool().Draw(t, "ta"), rapid.Bool().Draw(t, "tb")
		view := func(rows, cols int, trans bool, seed uint64) *tensor.Matrix {
			if trans {
				rows, cols = cols, rows
			}
			return random(rows+3, cols+2, seed).View(2, rows+2, 1, cols+1)
		}
		a, b, c := view(m, k, ta, 1), view(k, n, tb, 2), view(m, n, false, 3)
		op := func(x *tensor.Matrix, trans bool) mat.Matrix {
			if trans {
				return dense(x).T()
			}
			return dense(x)
		}
		var want mat.Dense
		want.Mul(op(a, ta), op(b, tb))
		want.Scale(2, &want)
		want.Add(&want, dense(c))
		low := c.Clone()
		tensor.Gemm(ta, tb, 2, a, b, 1, c, 0)
		requireNear(t, &want, c, 1e-4)
		tensor.GemmBF16(ta, tb, 2, a, b, 1, low, 0)
		requireNear(t, &want, low, 1) // 2^-8 of every factor
	})
}

func TestSyrkT(t *testing.T) {
	x, h := random(90, 37, 1), tensor.New(37, 37)
	for i := range h.Data {
		h.Data[i] = 1
	}
	low := h.Clone()
	tensor.SyrkT(x, h, 2)
	tensor.SyrkTBF16(x, low, 2)
	var want mat.Dense
	want.Mul(dense(x).T(), dense(x))
	for i := range 37 {
		for j := range 37 {
			if j > i {
				require.EqualValues(t, 1, h.At(i, j), "the upper triangle is not touched")
				require.EqualValues(t, 1, low.At(i, j))
				continue
			}
			require.InDelta(t, want.At(i, j)+1, h.At(i, j), 1e-4)
			require.InDelta(t, want.At(i, j)+1, low.At(i, j), 1)
		}
	}
}

func TestShapePanics(t *testing.T) {
	a, b := tensor.New(3, 4), tensor.New(3, 4)
	require.PanicsWithValue(t, "tensor: product of mismatched shapes", func() { tensor.Gemm(false, false, 1, a, b, 0, tensor.New(3, 4), 1) })
	require.PanicsWithValue(t, "tensor: product of mismatched shapes", func() { tensor.GemmBF16(false, true, 1, a, b, 0, tensor.New(3, 4), 1) })
	require.PanicsWithValue(t, "tensor: rank-k update of mismatched shapes", func() { tensor.SyrkT(a, b, 1) })
	require.PanicsWithValue(t, "tensor: rank-k update of mismatched shapes", func() { tensor.SyrkTBF16(a, b, 1) })
	require.PanicsWithValue(t, "tensor: factorization of a matrix that is not square", func() { tensor.Cholesky(a, 1) })
}

// TestMirror: the upper triangle becomes the lower, beside which nothing changes.
func TestMirror(t *testing.T) {
	h := &tensor.Matrix{Rows: 3, Cols: 3, Stride: 4, Data: []float32{1, 0, 0, 9, 2, 3, 0, 9, 4, 5, 6, 9}}
	tensor.Mirror(h)
	require.Equal(t, []float32{1, 2, 4, 9, 2, 3, 5, 9, 4, 5, 6, 9}, h.Data)
}
