package nn

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSlopes holds the derivatives of all activations to differences, away from
// where they bend.
func TestSlopes(t *testing.T) {
	type activation interface {
		Apply(x []float32)
		Slope(x float32) float32
	}
	all := []activation{NewXIELU(0.3, -0.7)}
	for a := SiLU; a <= Identity; a++ {
		all = append(all, a)
	}
	const h = 1.0 / 256
	for i, a := range all {
		for _, x := range []float32{-3, -1.5, -0.25, 0.125, 0.5, 2, 4} {
			y := []float32{x - h, x + h}
			a.Apply(y)
			require.InDelta(t, (y[1]-y[0])/(2*h), a.Slope(x), 5e-4, "activation %d at %g", i, x)
		}
	}
}

// TestClampedGateSlopes holds them to differences, inside the limits and beyond.
func TestClampedGateSlopes(t *testing.T) {
	const h, alpha, limit = 1.0 / 256, 1.702, 2
	for _, gate := range []float32{-3, -0.5, 1, 3} {
		for _, up := range []float32{-3, -0.5, 1, 3} {
			at := func(g, u float32) float32 { return ClampedGate(g, u, alpha, limit) }
			toGate, toUp := ClampedGateSlopes(gate, up, alpha, limit)
			require.InDelta(t, (at(gate+h, up)-at(gate-h, up))/(2*h), toGate, 2e-3)
			require.InDelta(t, (at(gate, up+h)-at(gate, up-h))/(2*h), toUp, 2e-3)
		}
	}
}

// TestChooseBack holds the gradient of experts' weights to differences, for every way to
// score and to weigh them.
func TestChooseBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	correction := []float32{0.01, 0.02, 0, 0.01, 0, 0.03, 0, 0}
	for name, o := range map[string]*Router{
		"softmax":          {},
		"renormalized":     {Renormalize: true, Factor: 2.5},
		"with a floor":     {Renormalize: true, Floor: 10, Plus: 0.5},
		"sigmoid":          {Sigmoid: true, Renormalize: true, Plus: 1e-6},
		"of the chosen":    {OfChosen: true},
		"groups":           {Groups: 4, TopGroups: 2},
		"groups, by pairs": {Sigmoid: true, Groups: 2, TopGroups: 1, Pairs: true, Renormalize: true},
		"mixer":            {Jitter: 0.2},
	} {
		o.Experts, o.Top = 8, 2
		logits, by := make([]float32, 8), make([]float32, 8)
		for i := range logits {
			logits[i], by[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
		}
		loss := func(p []float32) (sum float64) {
			q := append([]float32(nil), p...)
			for _, e := range o.Choose(q, correction) {
				sum += float64(q[e]) * float64(by[e])
			}
			return sum
		}
		g := make([]float32, 8)
		for _, e := range o.Choose(append([]float32(nil), logits...), correction) {
			g[e] = by[e]
		}
		o.ChooseBack(append([]float32(nil), logits...), correction, g)
		for e := range logits {
			const h = 1.0 / 512
			up, down := append([]float32(nil), logits...), append([]float32(nil), logits...)
			up[e] += h
			down[e] -= h
			require.InDelta(t, (loss(up)-loss(down))/(2*h), g[e], 1e-3, "%s: logit %d", name, e)
		}
	}
}
