package nn

import (
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Norm is a normalization of rows.
type Norm struct {
	Layer   bool    // LayerNorm (arXiv 1607.06450) instead of RMSNorm (arXiv 1910.07467)
	Plain   bool    // no gain
	PlusOne bool    // the gain is 1 + what is stored
	Bias    bool    // with a bias
	Eps     float64 // 0 means that of the configuration
}

// Apply normalizes src into dst, which may be the same.
func (s Norm) Apply(dst, src, gain, bias []float32) {
	eps := float32(s.Eps)
	if !s.Layer && gain != nil {
		kernel.RMSNorm(dst, src, gain, eps)
		return
	}
	var mean, square float64
	for _, v := range src {
		mean += float64(v)
		square += float64(v) * float64(v)
	}
	n := float64(len(src))
	if !s.Layer {
		f := float32(1 / math.Sqrt(square/n+float64(eps)))
		for i, v := range src {
			dst[i] = v * f
		}
		return
	}
	mean /= n
	square = 0
	for _, v := range src {
		d := float64(v) - mean
		square += d * d
	}
	f := 1 / math.Sqrt(square/n+float64(eps))
	for i, v := range src {
		y := float32((float64(v) - mean) * f)
		if gain != nil {
			y *= gain[i]
		}
		if bias != nil {
			y += bias[i]
		}
		dst[i] = y
	}
}

// GainOf returns the gain as it multiplies.
func (s Norm) GainOf(stored []float32) []float32 {
	if !s.PlusOne || stored == nil {
		return stored
	}
	g := make([]float32, len(stored))
	for i, v := range stored {
		g[i] = 1 + v
	}
	return g
}

// Back adds to dx the gradient at x of a loss whose gradient at the normalized row
// is dy; gain is as it multiplies, or nil. dx is neither x nor dy.
func (s Norm) Back(dx, x, dy, gain []float32) {
	n := float64(len(x))
	var mean, square float64
	if s.Layer {
		for _, v := range x {
			mean += float64(v)
		}
		mean /= n
	}
	for _, v := range x {
		d := float64(v) - mean
		square += d * d
	}
	f := 1 / math.Sqrt(square/n+float64(float32(s.Eps)))
	of := func(j int) float64 {
		if gain == nil {
			return float64(dy[j])
		}
		return float64(dy[j]) * float64(gain[j])
	}
	var along, sum float64 // of the row, and of ones
	for j, v := range x {
		g := of(j)
		along += g * (float64(v) - mean)
		sum += g
	}
	along *= f * f / n
	if sum /= n; !s.Layer {
		sum = 0
	}
	for j, v := range x {
		dx[j] += float32(f * (of(j) - sum - (float64(v)-mean)*along))
	}
}

// Activation is a function of one element.
type Activation uint8

const (
	SiLU     Activation = iota // x sigmoid(x), also called swish
	GELU                       // x Φ(x)
	GELUTanh                   // its approximation by tanh
	ReLU
	ReLU2 // relu(x)²
	GELUQuick
	Sigmoid
	Identity
)

// Apply sets x to act(x).
func (a Activation) Apply(x []float32) {
	if a == Identity {
		return
	}
	for i, v := range x {
		f := float64(v)
		switch a {
		case SiLU:
			f /= 1 + math.Exp(-f)
		case GELU:
			f *= 0.5 * (1 + math.Erf(f/math.Sqrt2))
		case GELUTanh:
			const c = 0.7978845608028654 // √(2/π)
			f *= 0.5 * (1 + math.Tanh(c*(f+0.044715*f*f*f)))
		case GELUQuick:
			f /= 1 + math.Exp(-1.702*f)
		case ReLU:
			f = max(f, 0)
		case ReLU2:
			f = max(f, 0)
			f *= f
		case Sigmoid:
			f = 1 / (1 + math.Exp(-f))
		}
		x[i] = float32(f)
	}
}

// Slope is the derivative of act at x.
func (a Activation) Slope(x float32) float32 {
	f := float64(x)
	sigmoid := func(v float64) float64 { return 1 / (1 + math.Exp(-v)) }
	switch a {
	case SiLU:
		s := sigmoid(f)
		f = s * (1 + f*(1-s))
	case GELU:
		f = 0.5*(1+math.Erf(f/math.Sqrt2)) + f*math.Exp(-f*f/2)/math.Sqrt(2*math.Pi)
	case GELUTanh:
		const c, d = 0.7978845608028654, 0.044715
		t := math.Tanh(c * (f + d*f*f*f))
		f = 0.5*(1+t) + 0.5*f*(1-t*t)*c*(1+3*d*f*f)
	case GELUQuick:
		s := sigmoid(1.702 * f)
		f = s + 1.702*f*s*(1-s)
	case ReLU:
		if f = 0; x > 0 {
			f = 1
		}
	case ReLU2:
		f = 2 * max(f, 0)
	case Sigmoid:
		s := sigmoid(f)
		f = s * (1 - s)
	default:
		f = 1
	}
	return float32(f)
}

// XIELU is xIELU (Huang and Schlag, arXiv 2411.13010), an activation with two learned
// numbers.
type XIELU struct{ up, down float64 }

const xieluBeta, xieluEps = 0.5, -1e-6

// NewXIELU returns the activation of its numbers as they are stored, before softplus.
func NewXIELU(positive, negative float32) XIELU {
	return XIELU{Softplus(positive), xieluBeta + Softplus(negative)}
}

// Apply sets x to act(x).
func (a XIELU) Apply(x []float32) {
	for j, v := range x {
		f := float64(v)
		if f > 0 {
			f = float64(a.up*f*f) + xieluBeta*f
		} else {
			f = float64((math.Expm1(min(f, xieluEps))-f)*a.down) + xieluBeta*f
		}
		x[j] = float32(f)
	}
}

// Slope is the derivative of act at x.
func (a XIELU) Slope(x float32) float32 {
	f := float64(x)
	switch {
	case f > 0:
		f = 2*a.up*f + xieluBeta
	case f < xieluEps:
		f = math.Expm1(f)*a.down + xieluBeta
	default:
		f = xieluBeta - a.down
	}
	return float32(f)
}

// ClampedGate is (up+1) * gate * sigmoid(alpha*gate), the gate limited from above and up
// from both sides.
func ClampedGate(gate, up float32, alpha, limit float64) float32 {
	a := min(float64(gate), limit)
	v := max(min(float64(up), limit), -limit)
	return float32((v + 1) * a / (1 + math.Exp(-alpha*a)))
}

// ClampedGateSlopes are the derivatives of ClampedGate by the gate and by up.
func ClampedGateSlopes(gate, up float32, alpha, limit float64) (toGate, toUp float32) {
	a := min(float64(gate), limit)
	v := max(min(float64(up), limit), -limit)
	s := 1 / (1 + math.Exp(-alpha*a))
	if v == float64(up) {
		toUp = float32(a * s)
	}
	if a == float64(gate) {
		toGate = float32((v + 1) * s * (1 + alpha*a*(1-s)))
	}
	return toGate, toUp
}
