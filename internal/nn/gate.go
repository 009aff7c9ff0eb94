package nn

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// HeadGate multiplies a part of a row y, as of one head, by Factor times the sigmoid of a
// logit (Bondarenko et al., arXiv 2306.12929, section 4.2, equations 5 to 7): Bias + Weight·z,
// where z is the part of another row x from From on, or ReLU(Inner z + InnerBias).
type HeadGate struct {
	At, Width int // of y
	From      int // of x
	Factor    float32

	Inner     *tensor.Matrix // [inner, in] or nil
	InnerBias []float32
	Weight    []float32 // empty: the logit is Bias
	Bias      float32
}

// gate is the sigmoid, and z as the logit has it.
func (g *HeadGate) gate(x []float32) (sigmoid float64, z []float32) {
	z = x[g.From:]
	if g.Inner != nil {
		z = make([]float32, g.Inner.Rows)
		for i := range z {
			sum := float64(g.InnerBias[i])
			for j, v := range g.Inner.Row(i) {
				sum += float64(v) * float64(x[g.From+j])
			}
			z[i] = float32(max(0, sum))
		}
	}
	logit := float64(g.Bias)
	for j, w := range g.Weight {
		logit += float64(w) * float64(z[j])
	}
	return 1 / (1 + math.Exp(-logit)), z
}

// Apply gates y, in place.
func (g *HeadGate) Apply(y, x []float32) {
	s, _ := g.gate(x)
	kernel.Scale(y[g.At:g.At+g.Width], float32(s)*g.Factor)
}

// Back turns d, the gradient at what becomes of y, into that at y, and adds to dx.
func (g *HeadGate) Back(d, y, x, dx []float32) {
	s, z := g.gate(x)
	d, y = d[g.At:g.At+g.Width], y[g.At:g.At+g.Width]
	var along float64
	for j, v := range y {
		along += float64(v) * float64(d[j])
	}
	kernel.Scale(d, float32(s)*g.Factor)
	slope := along * float64(g.Factor) * s * (1 - s)
	dx = dx[g.From:]
	if g.Inner == nil {
		kernel.Axpy(float32(slope), g.Weight, dx[:len(g.Weight)])
		return
	}
	for i, w := range g.Weight {
		if z[i] > 0 {
			kernel.Axpy(float32(slope*float64(w)), g.Inner.Row(i), dx[:g.Inner.Cols])
		}
	}
}
