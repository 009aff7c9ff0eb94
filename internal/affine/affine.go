// Package affine has the grid of a scale and a bias a group, both floats of one
// type: what mlx stores. Values are scale*code + bias, rounded once a step; the
// bias need be no multiple of the scale, and the scale may be of either sign.
package affine

import (
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Grid is the grid. It implements quant.SpanFitter, with the bias as what the
// shift is taken from: value = scale*code - shift.
type Grid struct {
	bits int
	t    quant.ScaleType // F16, BF16 or F32
}

var _ quant.SpanFitter = Grid{}

// Of returns the grid of 2 to 8 bits whose scales and biases are of a type; ok is
// false for others.
func Of(bits int, t quant.ScaleType) (g Grid, ok bool) {
	return Grid{bits, t}, bits >= 2 && bits <= 8 && (t == quant.F16 || t == quant.BF16 || t == quant.F32)
}

// Named returns the grid of a text.
func Named(text string) (g Grid, ok bool) {
	var bits int
	var name string
	if _, err := fmt.Sscanf(text, format, &bits, &name); err != nil {
		return g, false
	}
	t, err := quant.ParseScaleType(name)
	if err != nil {
		return g, false
	}
	g, ok = Of(bits, t)
	return g, ok && strings.TrimSpace(text) == g.String()
}

const format = "affine%d %s"

// Type is that of scales and biases.
func (g Grid) Type() quant.ScaleType { return g.t }

// Linear implements quant.Linear.
func (g Grid) Linear() (zero float32, ok bool) { return 0, true }

// Scheme is that of a weight on the grid.
func (g Grid) Scheme(group int) quant.Scheme {
	return quant.Scheme{Bits: g.bits, GroupSize: group, Grid: g}
}

// String is the grid's text, "affine4 f16".
func (g Grid) String() string { return fmt.Sprintf(format, g.bits, g.t) }

// MarshalText implements quant.Grid.
func (g Grid) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// Bits implements quant.Grid.
func (g Grid) Bits() int { return g.bits }

// Span implements quant.Grid: every group stands alone.
func (g Grid) Span() int { return 1 }

// ParamBits implements quant.Grid: a scale and a bias a group.
func (g Grid) ParamBits(groups int) int64 { return 2 * int64(groups) * int64(g.t.Bits()) }

// Shifted implements quant.SpanFitter.
func (g Grid) Shifted() bool { return true }

func (g Grid) top() float32 { return float32(int(1)<<g.bits - 1) }

// chunk is how many elements are rounded at once.
const chunk = 512

// zeros are the zero-points of codes that count from the bias.
var zeros [chunk]float32

// Round implements quant.Grid.
func (g Grid) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	var moved, unused [chunk]float32
	step := chunk
	if size > 1 {
		step = min(size, chunk)
	}
	for a := 0; a < len(x); {
		b := min(a+step, len(x))
		if size > 1 {
			b = min(b, a/size*size+size)
		}
		m := moved[:b-a]
		if size > 1 {
			k := a / size
			for i, v := range x[a:b] {
				m[i] = v + shift[k]
			}
			kernel.QuantRow(codes[a:b], m, scale[k], 0, g.top())
		} else {
			for i, v := range x[a:b] {
				m[i] = v + shift[a+i]
			}
			kernel.QuantCols(codes[a:b], unused[:b-a], m, scale[a:b], zeros[:b-a], g.top())
		}
		a = b
	}
	if values != nil {
		g.Values(values, codes, scale, shift, size)
	}
}

// Values implements quant.Grid.
func (g Grid) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	for i, a := 0, 0; a < len(codes); i, a = i+1, a+size {
		b := min(a+size, len(codes))
		s, m, to := scale[i], shift[i], dst[a:b]
		for j, u := range codes[a:b] {
			to[j] = float32(s*float32(u)) - m
		}
	}
}

// Slopes implements quant.Grid.
func (g Grid) Slopes(dst []float32, codes []uint8, _ []float32, _ int) {
	for i, u := range codes {
		dst[i] = float32(u)
	}
}

// scale rounds a scale of either sign to one that can be stored, which is not 0;
// ok is false beyond the type's range.
func (g Grid) scale(v float64) (s float32, ok bool) {
	s, err := g.t.RoundScale(float32(v))
	return s, err == nil && s-s == 0
}

// shift rounds a shift, of which 0 is one; ok is false beyond the type's range.
func (g Grid) shift(v float64) (m float32, ok bool) {
	m = float32(v)
	switch g.t {
	case quant.F16:
		if !(m <= wire.MaxHalf && m >= -wire.MaxHalf) {
			return 0, false
		}
		m = tensor.RoundF16(m)
	case quant.BF16:
		m = tensor.RoundBF16(m)
	}
	return m, m-m == 0
}

// Store implements quant.Grid.
func (g Grid) Store(scale []float32, want []float64) {
	for k, v := range want {
		if s, ok := g.scale(v); ok && v != 0 {
			scale[k] = s
		}
	}
}
