package rotate

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

func random(rows, cols int, seed uint64) *tensor.Matrix {
	r := rand.New(rand.NewPCG(seed, 5))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(r.NormFloat64())
	}
	return m
}

// dense is the matrix that a basis multiplies by: what it makes of the unit matrix.
func dense(b *Basis) *tensor.Matrix {
	q := tensor.New(b.n, b.n)
	for i := range b.n {
		q.Set(i, i, 1)
	}
	b.Rows(q, 0, b.n, 1)
	return q
}

// TestBasisIsOrthogonal: also of widths that are no power of two. Where there is a
// Hadamard matrix all elements are alike in size, so that an outlier is spread evenly.
func TestBasisIsOrthogonal(t *testing.T) {
	even := map[int]bool{1: true, 2: true, 12: true, 20: true, 24: true, 28: true, 36: true, 40: true, 48: true, 64: true, 88: true, 96: true, 104: true, 144: true}
	for n := 1; n <= 144; n++ {
		if n > 48 && n%8 != 0 {
			continue
		}
		q := dense(NewBasis(n, uint64(n), nil))
		alike := true
		for i := range n {
			for j := range n {
				sum := 0.0
				for k := range n {
					sum += float64(q.At(i, k)) * float64(q.At(j, k))
				}
				if i == j {
					sum--
				}
				require.InDelta(t, 0, sum, 2e-6, "%d: %d %d", n, i, j)
				alike = alike && math.Abs(math.Abs(float64(q.At(i, j)))*math.Sqrt(float64(n))-1) < 1e-5
			}
		}
		if even[n] {
			require.True(t, alike, n)
		}
		if n%2 == 1 && n > 1 {
			require.False(t, alike, n)
		}
	}
	for _, n := range []int{576, 768, 896, 1536, 2560, 3072, 3584, 5120, 7168} {
		_, m := smallFactor(n, rand.New(rand.NewPCG(1, 1)))
		require.NotNil(t, paley(m), "a Hadamard matrix of width %d", n)
	}
}

// TestBasisTwin: x·K·S·H in float64 by the definitions (MambaQuant, section 4: H_K = K·H, the
// Hadamard matrix behind the eigenvectors), H Sylvester's: (-1)^(bits that i and j share).
func TestBasisTwin(t *testing.T) {
	const n, rows = 32, 7
	eigen := dense(NewBasis(n, 9, random(n, n, 3))) // any matrix will do here
	b := NewBasis(n, 4, eigen)
	x := random(rows, 3*n+5, 1)
	want := make([][]float64, rows)
	for r := range rows {
		for j := range x.Cols {
			want[r] = append(want[r], float64(x.At(r, j)))
		}
		for _, from := range []int{5, 5 + n} {
			for j := range n {
				sum := 0.0
				for i := range n {
					k := 0.0
					for l := range n {
						k += float64(x.At(r, from+l)) * float64(eigen.At(l, i))
					}
					sum += k * b.signs[i] * float64(1-2*(bits.OnesCount(uint(i&j))%2)) / math.Sqrt(n)
				}
				want[r][from+j] = sum
			}
		}
	}
	b.Rows(x, 5, 5+2*n, 2)
	for r := range rows {
		for j := range x.Cols {
			require.InDelta(t, want[r][j], x.At(r, j), 1e-4)
		}
	}
	require.NotEqual(t, dense(NewBasis(n, 4, nil)), dense(NewBasis(n, 5, nil)), "seeds")
	same := random(3, 4, 1)
	Identity(4).Rows(same, 0, 4, 1)
	require.Equal(t, random(3, 4, 1), same)
}
