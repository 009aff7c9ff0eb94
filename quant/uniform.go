package quant

import (
	"errors"
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/lattice"
)

// ErrNotFinite is wrapped where a weight is NaN or infinite.
var ErrNotFinite = errors.New("weight is not finite")

// uniform is the grid whose values scale*(u - shift) are evenly spaced; the
// shift is a zero-point in 0 … 2^Bits-1. The scheme has its width and rules.
type uniform struct{ s Scheme }

// MarshalText implements Grid.
func (u *uniform) MarshalText() ([]byte, error) { return []byte("uniform"), nil }

// Bits implements Grid.
func (u *uniform) Bits() int { return u.s.Bits }

// Span implements Grid: every group stands alone.
func (u *uniform) Span() int { return 1 }

// ParamBits implements Grid: a scale and, if asymmetric, a zero-point a group.
func (u *uniform) ParamBits(groups int) int64 {
	bits := u.s.ScaleType.Bits()
	if !u.s.Symmetric {
		bits += u.s.Bits
	}
	return int64(groups) * int64(bits)
}

// Fit implements Grid.
func (u *uniform) Fit(scale, shift, x, importance []float32, size int, clip Clip) (int, error) {
	for k := range scale {
		a, b := k*size, min((k+1)*size, len(x))
		var imp []float32
		if importance != nil {
			imp = importance[a:b]
		}
		g, err := u.fit(x[a:b], imp, clip)
		if err != nil {
			return k, err
		}
		scale[k], shift[k] = g.Scale, g.Shift
	}
	return 0, nil
}

func (u *uniform) fit(x, importance []float32, clip Clip) (GroupParams, error) {
	lo, hi := kernel.MinMax(x)
	if !finite(lo) || !finite(hi) {
		return GroupParams{}, ErrNotFinite
	}
	lo, hi = u.extend(lo, hi)
	g, err := u.cover(lo, hi)
	if err != nil {
		return g, err
	}
	if clip != ClipNone {
		if best, ok := SearchClip(clip, lo, hi, u.error(x, importance, clip)); ok {
			g = best
		}
	}
	if u.s.Bits == 8 && u.s.Symmetric {
		g = u.coarser(g, x, importance, clip)
	}
	return g, nil
}

// error is what SearchClip asks.
func (u *uniform) error(x, importance []float32, clip Clip) func(lo, hi float32) (GroupParams, float64) {
	if clip == ClipPower {
		return u.powerError(x)
	}
	if importance == nil {
		importance = ones(len(x))
	}
	return u.inputError(x, importance)
}

// coarser is g, or a grid on which weights lie that are from a coarser one, with a minimum
// of its own: it reaches as far as they do, too.
func (u *uniform) coarser(g GroupParams, x, importance []float32, clip Clip) GroupParams {
	scales, n := lattice.Scales(x, 127)
	if n == 0 {
		return g
	}
	try, half := u.error(x, importance, clip), u.top()/2
	_, least := try(-half*g.Scale, half*g.Scale)
	for _, s := range scales[:n] {
		if c, e := try(-half*s, half*s); e < least {
			g, least = c, e
		}
	}
	return g
}

// powerError is what SearchClip asks by ClipPower.
func (u *uniform) powerError(x []float32) func(lo, hi float32) (GroupParams, float64) {
	top := u.top()
	return func(lo, hi float32) (GroupParams, float64) {
		g, err := u.cover(lo, hi)
		if err != nil {
			return g, math.Inf(1) // only the widest ranges can overflow
		}
		return g, kernel.PowErr(x, g.Scale, g.Shift, top)
	}
}

// inputError is what SearchClip asks by ClipInputs. It also tries the
// zero-points beside the rounded one.
func (u *uniform) inputError(x, importance []float32) func(lo, hi float32) (GroupParams, float64) {
	low, top := float32(u.s.MinZero), u.top()
	return func(lo, hi float32) (GroupParams, float64) {
		g, err := u.cover(lo, hi)
		if err != nil {
			return g, math.Inf(1)
		}
		least, z := kernel.SquareErr(x, importance, g.Scale, g.Shift, top), g.Shift
		if u.s.Symmetric {
			return g, least
		}
		if z > low {
			if e := kernel.SquareErr(x, importance, g.Scale, z-1, top); e < least {
				least, g.Shift = e, z-1
			}
		}
		if z < top {
			if e := kernel.SquareErr(x, importance, g.Scale, z+1, top); e < least {
				least, g.Shift = e, z+1
			}
		}
		return g, least
	}
}

func (u *uniform) top() float32 { return float32(u.s.MaxCode()) }

// extend applies the range rule to a group's extremes.
func (u *uniform) extend(lo, hi float32) (float32, float32) {
	if u.s.Symmetric {
		a := max(-lo, hi, 0)
		if a == 0 {
			a = 1 // an all-zero group gets a harmless scale
		}
		return -a, a
	}
	if u.s.Range == RangePaper {
		return lo, hi
	}
	lo, hi = min(lo, 0), max(hi, 0)
	if lo == 0 && hi == 0 {
		return -1, 1
	}
	return lo, hi
}

// cover returns the parameters of the grid that reaches from lo to hi.
func (u *uniform) cover(lo, hi float32) (GroupParams, error) {
	top := u.top()
	width := hi - lo
	if u.s.Range == RangePaper && !u.s.Symmetric {
		width = max(width, 1e-5)
	}
	scale, err := u.s.ScaleType.round(width / top)
	if err != nil {
		return GroupParams{}, err
	}
	if u.s.Symmetric {
		return GroupParams{scale, float32(int(1) << (u.s.Bits - 1))}, nil
	}
	z := math.RoundToEven(float64(-lo / scale))
	if low := float64(u.s.MinZero); z < low {
		z = low
		if low > 0 {
			// A zero-point above the range costs codes: widen the step to reach hi.
			if scale, err = u.s.ScaleType.round(hi / (top - float32(low))); err != nil {
				return GroupParams{}, err
			}
		}
	}
	z = min(max(z, 0), float64(top))
	return GroupParams{scale, float32(z)}, nil
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

// Store implements Grid: every scale is rounded to the scheme's type.
func (u *uniform) Store(scale []float32, want []float64) {
	for k, v := range want {
		if !(v > 0) || math.IsInf(v, 0) {
			continue
		}
		if r, err := u.s.ScaleType.RoundScale(float32(v)); err == nil {
			scale[k] = r
		}
	}
}

// Round implements Grid.
func (u *uniform) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	top := u.top()
	if size == 1 && values != nil {
		kernel.QuantCols(codes, values, x, scale, shift, top)
		return
	}
	for k, a := 0, 0; a < len(x); k, a = k+1, a+size {
		b := min(a+size, len(x))
		kernel.QuantRow(codes[a:b], x[a:b], scale[k], shift[k], top)
		if values != nil {
			kernel.Dequant(values[a:b], codes[a:b], scale[k], shift[k])
		}
	}
}

// Values implements Grid.
func (u *uniform) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	if size == 1 {
		scale, shift = scale[:len(codes)], shift[:len(codes)]
		for i, c := range codes {
			dst[i] = scale[i] * (float32(c) - shift[i])
		}
		return
	}
	for k, a := 0, 0; a < len(codes); k, a = k+1, a+size {
		b := min(a+size, len(codes))
		kernel.Dequant(dst[a:b], codes[a:b], scale[k], shift[k])
	}
}

// Slopes implements Grid.
func (u *uniform) Slopes(dst []float32, codes []uint8, shift []float32, size int) {
	if size == 1 {
		shift = shift[:len(codes)]
		for i, c := range codes {
			dst[i] = float32(c) - shift[i]
		}
		return
	}
	for k, a := 0, 0; a < len(codes); k, a = k+1, a+size {
		b := min(a+size, len(codes))
		z, to := shift[k], dst[a:b]
		for i, c := range codes[a:b] {
			to[i] = float32(c) - z
		}
	}
}
