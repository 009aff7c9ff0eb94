package lattice

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestScales: of values with an even spacing and a minimum the scales found bring them closer
// to integers than most do, and reach as far; of others there are none.
func TestScales(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var missed, all float64
	for range 200 {
		d, m := 1+rng.Float32(), rng.Float32()-8
		x := make([]float32, 64)
		var most float64
		for i := range x {
			x[i] = d*float32(rng.IntN(16)) + m
			most = max(most, math.Abs(float64(x[i])))
		}
		require.True(t, few(x))
		scales, n := Scales(x, 127)
		require.NotZero(t, n)
		least := math.Inf(1)
		for _, s := range scales[:n] {
			require.LessOrEqual(t, most, 127.5*float64(s))
			least = min(least, miss(x, float64(s)))
		}
		missed, all = missed+least, all+miss(x, most/127)
	}
	require.Less(t, missed, all/4)

	x := make([]float32, 64)
	for i := range x {
		x[i] = rng.Float32()
	}
	require.False(t, few(x))
	copy(x[32:], x[:32]) // half as many, but without a spacing
	require.True(t, few(x))
	_, n := Scales(x, 127)
	require.Zero(t, n)
	_, n = Scales(make([]float32, 64), 127)
	require.Zero(t, n)
}

// miss is the sum of squares of what x is from multiples of s.
func miss(x []float32, s float64) (sum float64) {
	for _, v := range x {
		e := float64(v) - s*math.Round(float64(v)/s)
		sum += e * e
	}
	return sum
}
