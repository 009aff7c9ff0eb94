package quant

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/tensor"
)

// TestJoin: what two collectors have seen is, together, what one would have, up to rounding.
func TestJoin(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(rows, cols int) *tensor.Matrix {
		m := tensor.New(rows, cols)
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64())
		}
		return m
	}
	for name, add := range map[string]func(c *Collector, x, xq, r *tensor.Matrix){
		"one":   func(c *Collector, x, _, _ *tensor.Matrix) { c.Add(x, 1) },
		"pairs": func(c *Collector, x, xq, _ *tensor.Matrix) { c.AddPair(x.Clone(), xq, nil, 1) },
		"residual": func(c *Collector, x, xq, r *tensor.Matrix) {
			c.AddPair(x.Clone(), xq, r, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fresh := func() *Collector {
				if name == "one" {
					return NewCollector(5)
				}
				return NewPairCollector(5)
			}
			whole, a, b := fresh(), fresh(), fresh()
			for i := range 4 {
				x, xq, r := random(7, 5), random(7, 5), random(7, 3)
				add(whole, x, xq, r)
				if i < 2 {
					add(a, x, xq, r)
				} else {
					add(b, x, xq, r)
				}
			}
			s := b.Sums()
			a.Join(s.Collector())
			want, got := whole.Calibration(), a.Calibration()
			require.Equal(t, want.Tokens, got.Tokens)
			require.Equal(t, want.AbsMax, got.AbsMax)
			near := func(a, b *tensor.Matrix) {
				require.Equal(t, a == nil, b == nil)
				if a != nil {
					require.InDeltaSlice(t, a.Data, b.Data, 1e-4)
				}
			}
			require.InDeltaSlice(t, want.MeanAbs, got.MeanAbs, 1e-6)
			near(want.H, got.H)
			near(want.Cross, got.Cross)
			near(want.Residual, got.Residual)
		})
	}
}
