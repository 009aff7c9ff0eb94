package quant

import (
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/tensor"
)

// ErrScaleRange is wrapped when a group's scale does not fit its stored type.
var ErrScaleRange = errors.New("scale out of range")

const (
	maxF16 = 65504
	minF16 = 1.0 / (1 << 24) // smallest subnormal
	minF32 = 0x1p-126        // smallest normal: its inverse is finite
)

// round rounds a scale that is not negative to the type in which it is
// stored. One below the smallest of the type becomes that: such weights are
// all but zero, and a scale of 0 would lose them and divide by zero.
func (t ScaleType) round(s float32) (float32, error) {
	if t == F32 {
		if !finite(s) {
			return 0, fmt.Errorf("%w: %g", ErrScaleRange, s)
		}
		return max(s, minF32), nil
	}
	r := max(s, minF16)
	if r <= maxF16 {
		if t == F16Short {
			r = shortF16(r)
		} else {
			r = tensor.RoundF16(r)
		}
	}
	if !(r <= maxF16) {
		return 0, fmt.Errorf("%w: %g is above %d, the largest half float: use f32 scales", ErrScaleRange, s, maxF16)
	}
	return r, nil
}

// RoundScale rounds a scale of either sign to the type in which it is stored.
func (t ScaleType) RoundScale(s float32) (float32, error) {
	if s < 0 {
		r, err := t.round(-s)
		return -r, err
	}
	return t.round(s)
}

// shortF16 rounds s to 7 significant bits, ties to even, on the half-float grid.
func shortF16(s float32) float32 {
	_, e := math.Frexp(float64(s))
	step := math.Ldexp(1, max(e-7, -24))
	return float32(math.RoundToEven(float64(s)/step) * step)
}

// Grid is the scale and zero-point of one group.
type Grid struct {
	Scale float32
	Zero  uint8
}

// Grid returns scale and zero-point for the weights x of one group.
// importance is how much an error of each weight matters to ClipInput (the
// diagonal of H at its input); nil means all the same.
func (s Scheme) Grid(x, importance []float32) (Grid, error) {
	lo, hi := kernel.MinMax(x)
	if !finite(lo) || !finite(hi) {
		return Grid{}, fmt.Errorf("weight is not finite")
	}
	lo, hi = s.extend(lo, hi)
	g, err := s.fromRange(lo, hi)
	if err != nil || !s.Clip {
		return g, err
	}
	top := float32(s.MaxCode())
	score := func(c Grid) float64 { return kernel.PowErr(x, c.Scale, float32(c.Zero), top) }
	if s.ClipInput {
		if importance == nil {
			importance = ones(len(x))
		}
		score = func(c Grid) float64 { return kernel.SquareErr(x, importance, c.Scale, float32(c.Zero), top) }
	}
	best, since := math.Inf(1), 0
	try := func(c Grid) {
		if e := score(c); e < best {
			best, g, since = e, c, 0
		}
	}
	for i := range clipSteps {
		if since++; s.ClipInput && since > clipPatience {
			break
		}
		p := float32(1 - float64(i)/100)
		c, err := s.fromRange(p*lo, p*hi)
		if err != nil {
			continue // only the widest ranges can overflow
		}
		try(c)
		if !s.ClipInput || s.Symmetric {
			continue
		}
		if int(c.Zero) > s.MinZero {
			try(Grid{c.Scale, c.Zero - 1})
		}
		if int(c.Zero) < s.MaxCode() {
			try(Grid{c.Scale, c.Zero + 1})
		}
	}
	return g, nil
}

var manyOnes = func() (v [1024]float32) {
	for i := range v {
		v[i] = 1
	}
	return v
}()

func ones(n int) []float32 {
	if n <= len(manyOnes) {
		return manyOnes[:n]
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// clipSteps is the number of shrink factors 1-i/100 that Clip tries (GPTQ's
// mse option: grid 100, maxshrink 0.8).
const clipSteps = 80

// clipPatience is after how many steps without gain ClipInput gives up: the
// error has one valley, but a ragged one.
const clipPatience = 16

// extend applies the range rule to a group's extremes.
func (s Scheme) extend(lo, hi float32) (float32, float32) {
	if s.Symmetric {
		a := max(-lo, hi, 0)
		if a == 0 {
			a = 1 // an all-zero group gets a harmless scale
		}
		return -a, a
	}
	if s.Range == RangePaper {
		return lo, hi
	}
	lo, hi = min(lo, 0), max(hi, 0)
	if lo == 0 && hi == 0 {
		return -1, 1
	}
	return lo, hi
}

// fromRange returns the grid that covers [lo, hi].
func (s Scheme) fromRange(lo, hi float32) (Grid, error) {
	top := float32(s.MaxCode())
	width := hi - lo
	if s.Range == RangePaper && !s.Symmetric {
		width = max(width, 1e-5)
	}
	scale, err := s.ScaleType.round(width / top)
	if err != nil {
		return Grid{}, err
	}
	if s.Symmetric {
		return Grid{scale, uint8(1 << (s.Bits - 1))}, nil
	}
	z := math.RoundToEven(float64(-lo / scale))
	if low := float64(s.MinZero); z < low {
		z = low
		if low > 0 {
			// A zero-point above the range costs codes: widen the step to reach hi.
			if scale, err = s.ScaleType.round(hi / (top - float32(low))); err != nil {
				return Grid{}, err
			}
		}
	}
	z = min(max(z, 0), float64(top))
	return Grid{scale, uint8(z)}, nil
}
