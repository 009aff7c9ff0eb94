package rotate

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

// written is Q = K·S·H of section 4.1 written out: H is the Kronecker product of the small
// factor and Sylvester's matrix, whose element (i, j) is −1 to the number of common bits.
func written(b *Basis) [][]float64 {
	n, inner := b.n, b.n/b.m
	h := make([][]float64, n)
	for i := range h {
		h[i] = make([]float64, n)
		for j := range h[i] {
			s := 1.0
			for c := (i % inner) & (j % inner); c > 0; c &= c - 1 {
				s = -s
			}
			h[i][j] = b.signs[i] * b.small[i/inner*b.m+j/inner] * s / math.Sqrt(float64(inner))
		}
	}
	if b.eigen == nil {
		return h
	}
	q := make([][]float64, n)
	for i := range q {
		q[i] = make([]float64, n)
		for j := range q[i] {
			for k := range n {
				q[i][j] += float64(b.eigen.At(i, k)) * h[k][j]
			}
		}
	}
	return q
}

// gram is the largest difference of QᵀQ from the unit matrix.
func gram(q [][]float64) (worst float64) {
	for i := range q {
		for j := range q {
			s := 0.0
			for k := range q {
				s += q[k][i] * q[k][j]
			}
			if i == j {
				s--
			}
			worst = max(worst, math.Abs(s))
		}
	}
	return worst
}

// jacobi are the eigenvectors, in columns, of a symmetric matrix, by plane rotations.
func jacobi(a [][]float64) [][]float64 {
	n := len(a)
	v := make([][]float64, n)
	for i := range v {
		v[i] = make([]float64, n)
		v[i][i] = 1
	}
	for range 60 {
		for p := range n {
			for q := p + 1; q < n; q++ {
				if a[p][q] == 0 {
					continue
				}
				angle := math.Atan2(2*a[p][q], a[q][q]-a[p][p]) / 2
				c, s := math.Cos(angle), math.Sin(angle)
				for k := range n {
					a[k][p], a[k][q] = c*a[k][p]-s*a[k][q], s*a[k][p]+c*a[k][q]
				}
				for k := range n {
					a[p][k], a[q][k] = c*a[p][k]-s*a[q][k], s*a[p][k]+c*a[q][k]
					v[k][p], v[k][q] = c*v[k][p]-s*v[k][q], s*v[k][p]+c*v[k][q]
				}
			}
		}
	}
	return v
}

// TestBasis holds products with Q to the matrix written out. Hadamard factors have entries
// of one size; where no Paley matrix fits, Q is still orthogonal.
func TestBasis(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		n, small int
		hadamard bool
	}{{1, 1, true}, {64, 1, true}, {12, 12, true}, {96, 12, true}, {80, 20, true}, {144, 36, true}, {56, 28, true}, {172, 172, false}, {184, 184, false}, {368, 368, true}, {30, 15, false}, {7, 7, false}} {
		b := NewBasis(c.n, 5, nil)
		q := written(b)
		t.Logf("n %d: small factor %d", c.n, b.m)
		require.Less(t, gram(q), 1e-12, "width %d", c.n)
		if c.hadamard {
			require.Equal(t, c.small, b.m, "width %d", c.n)
			for _, row := range q {
				for _, x := range row {
					require.InDelta(t, 1/math.Sqrt(float64(c.n)), math.Abs(x), 1e-12, "width %d", c.n)
				}
			}
		}
		x := tensor.New(3, c.n+2*c.n+1)
		for i := range x.Data {
			x.Data[i] = float32(r.NormFloat64())
		}
		y := x.Clone()
		b.Rows(y, 1, 1+2*c.n, 2)
		for i := range x.Rows {
			for j := range x.Cols {
				want := float64(x.At(i, j))
				if at := j - 1; at >= 0 && at < 2*c.n {
					want = 0
					for k := range c.n {
						want += float64(x.At(i, 1+at/c.n*c.n+k)) * q[k][at%c.n]
					}
				}
				require.InDelta(t, want, float64(y.At(i, j)), 1e-5, "width %d", c.n)
			}
		}
	}
}

// TestKLT: behind the eigenvectors of the second moments a Hadamard matrix gives all
// channels the same mean square (section 4.1), which without them it does not.
func TestKLT(t *testing.T) {
	const n, tokens = 24, 400
	r := rand.New(rand.NewPCG(3, 4))
	x := tensor.New(tokens, n)
	for i := range tokens {
		common := r.NormFloat64()
		for j := range n {
			x.Set(i, j, float32(common*float64(j%5)+math.Exp(float64(j%7)/2)*r.NormFloat64()))
		}
	}
	moments := func(x *tensor.Matrix) [][]float64 {
		c := make([][]float64, n)
		for i := range c {
			c[i] = make([]float64, n)
			for j := range c[i] {
				for k := range tokens {
					c[i][j] += float64(x.At(k, i)) * float64(x.At(k, j)) / tokens
				}
			}
		}
		return c
	}
	v := jacobi(moments(x))
	k := tensor.New(n, n)
	for i := range n {
		for j := range n {
			k.Set(i, j, float32(v[i][j]))
		}
	}
	spread := func(eigen *tensor.Matrix) float64 {
		y := x.Clone()
		NewBasis(n, 1, eigen).Rows(y, 0, n, 1)
		c, low, high := moments(y), math.Inf(1), 0.0
		for i := range n {
			low, high = min(low, c[i][i]), max(high, c[i][i])
		}
		return high / low
	}
	require.Less(t, gram(written(NewBasis(n, 1, k))), 1e-6)
	require.Less(t, spread(k), 1.0001)
	require.Greater(t, spread(nil), 1.5)
}
