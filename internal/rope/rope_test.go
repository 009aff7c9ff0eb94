package rope_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/rope"
)

// TestRotate: every pair turns by its own angle, and the product of two heads
// depends on the distance between them alone.
func TestRotate(t *testing.T) {
	const dim = 8
	a := []float32{1, -2, 3, 0.5, -1, 2, 0.25, 4}
	b := []float32{0.5, 1, -1, 2, 3, -0.5, 1, -2}
	for _, interleaved := range []bool{false, true} {
		r := &rope.Rope{Theta: 10, Dim: dim, Interleaved: interleaved}
		require.NoError(t, r.Validate())
		table := r.For(16, nil)
		require.Same(t, table, r.For(40, table), "it grows")
		turned := func(x []float32, pos int) []float32 {
			x = append([]float32(nil), x...)
			table.Rotate(x, pos)
			return x
		}
		require.Equal(t, a, turned(a, 0))
		got := turned(a, 7)
		for j := range dim / 2 {
			x, y := j, j+dim/2
			if interleaved {
				x, y = 2*j, 2*j+1
			}
			sin, cos := math.Sincos(7 * math.Pow(10, -2*float64(j)/dim))
			require.InDelta(t, float64(a[x])*cos-float64(a[y])*sin, got[x], 1e-5)
			require.InDelta(t, float64(a[y])*cos+float64(a[x])*sin, got[y], 1e-5)
		}
		dot := func(x, y []float32) (sum float64) {
			for i := range x {
				sum += float64(x[i]) * float64(y[i])
			}
			return sum
		}
		require.InDelta(t, dot(turned(a, 3), turned(b, 0)), dot(turned(a, 38), turned(b, 35)), 1e-5)
	}
}

// TestTableOfLength: where frequencies depend on the length another length has
// another table.
func TestTableOfLength(t *testing.T) {
	r := &rope.Rope{Theta: 10000, Dim: 8, Scaling: rope.Scaling{Type: "dynamic", Factor: 2, OriginalMaxPosition: 32}}
	require.NoError(t, r.Validate())
	short := r.For(16, nil)
	long := r.For(64, short)
	require.NotSame(t, short, long)
	require.Same(t, long, r.For(64, long))
	one, _ := r.Frequencies(32)
	two, _ := r.Frequencies(64)
	require.Equal(t, one[0], two[0])
	require.Less(t, two[3], one[3])
}
