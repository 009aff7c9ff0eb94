package quant

import (
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/tensor"
)

// ErrScaleRange is wrapped when a group's scale does not fit its stored type.
var ErrScaleRange = errors.New("scale out of range")

const (
	maxBF16 = 0x1.fep127
	minF16  = 1.0 / (1 << 24) // smallest subnormal
	minF32  = 0x1p-126        // smallest normal: its inverse is finite
)

// round rounds a scale that is not negative to the type in which it is
// stored, but never to 0, which would divide by zero: a scale below the
// smallest positive number of the type becomes that number.
func (t ScaleType) round(s float32) (float32, error) {
	if t == F32 {
		if !finite(s) {
			return 0, fmt.Errorf("%w: %g", ErrScaleRange, s)
		}
		return max(s, minF32), nil
	}
	if t == BF16 {
		r := tensor.RoundBF16(max(s, minF32))
		if !(r <= maxBF16) {
			return 0, fmt.Errorf("%w: %g is above the largest bfloat16: use f32 scales", ErrScaleRange, s)
		}
		return r, nil
	}
	r := max(s, minF16)
	if r <= wire.MaxHalf {
		if t == F16Short {
			r = shortF16(r)
		} else {
			r = tensor.RoundF16(r)
		}
	}
	if !(r <= wire.MaxHalf) {
		return 0, fmt.Errorf("%w: %g is above %d, the largest half float: use f32 scales", ErrScaleRange, s, wire.MaxHalf)
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
