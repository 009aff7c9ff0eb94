package quant

import (
	"encoding"
	"math"

	"github.com/golowbit/lowbit/internal/enum"
)

// Grid is the set of values that the weights of a group can take, and how
// its parameters are found and stored. RTN, GPTQ, clipping and refinement ask
// the grid for all of it, so that a grid of another kind (levels that are not
// evenly spaced, scales that are quantized themselves) needs no change to
// them. Scheme.Grid gives them one; the uniform grid is what they use without.
//
// A group has two parameters, a scale and a shift, and a code u in
// 0 … 2^Bits-1 stands for a value that is linear in the scale,
//
//	value(u) = scale * slope(u, shift) + base(shift).
//
// For the uniform grid the shift is the zero-point, slope(u) = u - shift and
// the base is 0. A grid with a minimum has slope(u) = u and the base -shift;
// one with a table of levels has slope(u) = level[u] and leaves the shift 0.
//
// Scales and shifts are those that multiply and shift the codes, in float32.
// Where what is stored is coarser (a super-block's factor times an integer of
// 6 bits), Fit and Store choose them such that the stored parameters follow
// from them exactly.
//
// Slices of elements come with the length size of a run: element i has the
// parameters i/size, the last run may be shorter, and with size 1 every
// element has its own.
//
// Implementations must be comparable, safe for concurrent use, and give the
// same result for the same weights, whatever else is quantized beside them.
type Grid interface {
	// MarshalText gives the grid's name and whatever decides its values.
	encoding.TextMarshaler
	// Bits is the number of bits of a code, 2 … 8.
	Bits() int
	// Span is how many neighbouring groups of a line store their parameters
	// together and must be fitted together: 1, or the groups of a super-block.
	Span() int
	// ParamBits is the number of bits that the stored parameters of this many
	// groups, the first one at the start of a span, take.
	ParamBits(groups int) int64

	// Fit sets scale[k] and shift[k] for the groups k of whole spans, whose
	// weights are the runs of x, by the given rule. importance is how much an
	// error of each weight matters to ClipInputs; nil means all the same. If
	// it fails it returns the group where it does.
	Fit(scale, shift, x, importance []float32, size int, clip Clip) (group int, err error)
	// Store replaces the scales of whole spans by what can be stored nearest
	// to want. What is wanted but is no scale (NaN, Inf, 0, out of range)
	// leaves a scale as it is, as far as that can be stored beside the others.
	Store(scale []float32, want []float64)
	// Round sets codes to the codes whose values are nearest to x, and values,
	// if not nil, to these values.
	Round(codes []uint8, values, x, scale, shift []float32, size int)
	// Values sets dst to the values of codes.
	Values(dst []float32, codes []uint8, scale, shift []float32, size int)
	// Slopes sets dst to the slopes of codes.
	Slopes(dst []float32, codes []uint8, shift []float32, size int)
}

// SpanFitter is implemented by grids whose groups share stored parameters, or
// whose shifts are no codes: after codes have been chosen it finds the parameters
// of a span once more, under H. Refinement asks it for axis OC.
type SpanFitter interface {
	Grid
	// Shifted reports whether the shifts are fitted too, which are then all of
	// the base: value = scale*slope - shift.
	Shifted() bool
	// FitSpan moves the parameters p of a span, its scales and, if Shifted, after
	// them its shifts, to others that can be stored and lower the loss, which a
	// change δ of p changes by 2 gᵀδ + δᵀAδ. a is A [p, p], row-major, g has
	// length p. It reports whether it has found any. Neither a nor g is modified.
	FitSpan(scale, shift []float32, a, g []float64) bool
}

// Linear is implemented by grids whose values may be evenly spaced with one zero-point for all groups,
//
//	value(u) = scale*(u - zero) - shift,
//
// which is all that products with packed codes need to know of a grid.
type Linear interface {
	Grid
	// Linear returns the zero-point, a whole number; ok is false if values are not evenly spaced.
	Linear() (zero float32, ok bool)
}

// Leveled is implemented by grids of 4 bits whose values may be value(u) = scale*level[u]: products with packed
// codes look the levels up.
type Leveled interface {
	Grid
	// Levels returns the levels; ok is false if values are not of this kind.
	Levels() (levels [16]float32, ok bool)
}

// GridOf returns the grid of a scheme: Scheme.Grid, or the uniform one that
// the other fields describe.
func GridOf(s Scheme) Grid {
	if s.Grid != nil {
		return s.Grid
	}
	return &uniform{s}
}

// GroupParams are the parameters of one group of a Grid.
type GroupParams struct {
	Scale float32
	Shift float32 // of the uniform grid: the zero-point
}

// Fit returns the parameters that the scheme's grid finds for the weights x
// of one group. importance is how much an error of each weight matters to
// ClipInput (the diagonal of H at its input); nil means all the same. Errors
// wrap ErrScaleRange or ErrNotFinite.
func (s Scheme) Fit(x, importance []float32) (GroupParams, error) {
	var scale, shift [1]float32
	_, err := GridOf(s).Fit(scale[:], shift[:], x, importance, len(x), s.ClipRule())
	return GroupParams{scale[0], shift[0]}, err
}

// Clip is by which rule a grid's range is shrunk. Its text is "none", "power"
// or "inputs".
type Clip uint8

const (
	// ClipNone covers all weights.
	ClipNone Clip = iota
	// ClipPower minimizes Σ|err|^2.4 (GPTQ's mse option).
	ClipPower
	// ClipInputs minimizes Σ importance·err².
	ClipInputs
)

var clips = enum.New[Clip]("Clip", "clip rule", ErrScheme, "none", "power", "inputs")

// String returns the rule's text.
func (c Clip) String() string { return clips.String(c) }

// MarshalText implements encoding.TextMarshaler.
func (c Clip) MarshalText() ([]byte, error) { return clips.Marshal(c) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Clip) UnmarshalText(text []byte) error { return clips.Unmarshal(c, text) }

// ParseClip reads "none", "power" or "inputs". Errors wrap ErrScheme.
func ParseClip(s string) (Clip, error) { return clips.Parse(s) }

// ClipRule is the rule that Clip and ClipInput say.
func (s Scheme) ClipRule() Clip {
	switch {
	case !s.Clip:
		return ClipNone
	case s.ClipInput:
		return ClipInputs
	}
	return ClipPower
}

// clipSteps is the number of shrink factors 1-i/100 that SearchClip tries
// (GPTQ's mse option: grid 100, maxshrink 0.8).
const clipSteps = 80

// clipPatience is after how many steps without gain ClipInputs gives up: the
// error has one valley, but a ragged one.
const clipPatience = 16

// SearchClip is the search that Grid.Fit can use to clip: it shrinks the
// range lo … hi by p = 1, 0.99, … 0.21, asks for the best parameters for
// p*lo … p*hi and their error, and returns the parameters with the least
// error; of equal ones the first. Where there are none the error is +Inf. ok
// is false if no error is a finite number.
func SearchClip(clip Clip, lo, hi float32, cover func(lo, hi float32) (GroupParams, float64)) (best GroupParams, ok bool) {
	least, since := math.Inf(1), 0
	for i := range clipSteps {
		if since++; clip == ClipInputs && since > clipPatience {
			break
		}
		p := float32(1 - float64(i)/100)
		if c, e := cover(p*lo, p*hi); e < least {
			least, best, ok, since = e, c, true, 0
		}
	}
	return best, ok
}

// ClipError is what a clip rule minimizes for weights x that become values:
// Σ importance·err² for ClipInputs (importance nil is 1), Σ|err|^2.4 else.
func ClipError(clip Clip, x, values, importance []float32) float64 {
	var sum float64
	for i, v := range x {
		d := float64(values[i]) - float64(v)
		switch {
		case clip != ClipInputs:
			sum += math.Pow(math.Abs(d), 2.4)
		case importance != nil:
			sum += float64(importance[i]) * d * d
		default:
			sum += d * d
		}
	}
	return sum
}
