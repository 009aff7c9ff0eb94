package arch

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/tensor"
)

// TestBackwardAgainstNaive holds the gradient before a block to differences in
// float64 of its naive twin, in random directions.
func TestBackwardAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := randomConfig(t)
		w := randomWeights(t, c, rapid.Uint64().Draw(t, "seed"))
		l, err := load(model(t, c), w, rapid.IntRange(1, 4).Draw(t, "workers"))
		require.NoError(t, err)
		twin := naive{&l.Config, w}
		tokens := rapid.IntRange(1, 20).Draw(t, "tokens")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 3))
		random := func() *tensor.Matrix {
			m := tensor.New(tokens, c.Hidden)
			for i := range m.Data {
				m.Data[i] = float32(rng.NormFloat64())
			}
			return m
		}
		x, by := random(), random()
		for _, b := range l.blocks {
			g := by.Clone()
			require.NoError(t, l.runner.Backward(b, x, g, tokens, false, nil))
			for range 3 {
				u := random()
				loss := func(h float64) float64 {
					y := toFloat64(x)
					for i, row := range y {
						for j := range row {
							row[j] += h * float64(u.At(i, j))
						}
					}
					out, _ := twin.block(b.Index, y)
					var sum float64
					for i, row := range out {
						for j, v := range row {
							sum += v * float64(by.At(i, j))
						}
					}
					return sum
				}
				const h = 1e-4
				want := (8*(loss(h)-loss(-h)) - (loss(2*h) - loss(-2*h))) / (12 * h)
				var got, size float64
				for i, v := range g.Data {
					got += float64(v) * float64(u.Data[i])
					size += float64(v) * float64(v)
				}
				require.InDelta(t, want, got, 1e-4*math.Sqrt(size))
			}
		}
	})
}
