package program

import "github.com/golowbit/lowbit/internal/nn"

// What blocks are made of, by the names that descriptions of architectures use.
type (
	Norm       = nn.Norm
	Activation = nn.Activation
	Router     = nn.Router
)

// The activations.
const (
	SiLU, GELU, GELUTanh, ReLU          = nn.SiLU, nn.GELU, nn.GELUTanh, nn.ReLU
	ReLU2, GELUQuick, Sigmoid, Identity = nn.ReLU2, nn.GELUQuick, nn.Sigmoid, nn.Identity
)

// ALiBiSlopes are the slopes of ALiBi for n heads.
func ALiBiSlopes(n int) []float64 { return nn.ALiBiSlopes(n) }
