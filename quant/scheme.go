// Package quant defines how weights are put on low-bit grids: the scheme
// (bits, group size, axis, range rule), the grid of values that a group can
// take, the packed weight that results, the Quantizer interface that every
// method implements, round-to-nearest, and the calibration statistics and
// losses by which methods are compared.
//
// A group is GroupSize weights that share one scale s and one zero-point z;
// a code u in 0 … 2^Bits-1 stands for the weight s*(u-z), or for what
// another Grid makes of it. With axis OC a group lies inside one output row,
// with axis IC inside one input column (AdaDim, arXiv 2309.15531, §4.1).
package quant

import (
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/enum"
)

// Axis says inside which channel a group lies. Its text is "oc" or "ic".
type Axis uint8

const (
	// OC groups consecutive inputs of one output row: the usual layout.
	OC Axis = iota
	// IC groups outputs of one input column.
	IC
)

var axes = enum.New[Axis]("Axis", "axis", ErrScheme, "oc", "ic")

// String returns the axis' text.
func (a Axis) String() string { return axes.String(a) }

// MarshalText implements encoding.TextMarshaler.
func (a Axis) MarshalText() ([]byte, error) { return axes.Marshal(a) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Axis) UnmarshalText(text []byte) error { return axes.Unmarshal(a, text) }

// ParseAxis reads "oc" or "ic". Errors wrap ErrScheme.
func ParseAxis(s string) (Axis, error) { return axes.Parse(s) }

// Range is the rule by which a group's extremes become a scale. Its text is
// "zero" or "paper".
type Range uint8

const (
	// RangeZero extends the group's range to hold 0, as GPTQ does.
	RangeZero Range = iota
	// RangePaper is the rule of the public AdaDim code: the range of the
	// group as it is, the zero-point clamped, the range at least 1e-5. It
	// destroys groups whose weights share one sign and are far from 0; it is
	// here to reproduce published figures.
	RangePaper
)

var ranges = enum.New[Range]("Range", "range rule", ErrScheme, "zero", "paper")

// String returns the rule's text.
func (r Range) String() string { return ranges.String(r) }

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return ranges.Marshal(r) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Range) UnmarshalText(text []byte) error { return ranges.Unmarshal(r, text) }

// ParseRange reads "zero" or "paper". Errors wrap ErrScheme.
func ParseRange(s string) (Range, error) { return ranges.Parse(s) }

// ScaleType is the type in which scales are stored. Codes are chosen after
// the scale has been rounded to it. Its text is "f16", "f32", "f16short" or
// "bf16".
type ScaleType uint8

const (
	// F16 stores IEEE half floats.
	F16 ScaleType = iota
	// F32 stores float32.
	F32
	// F16Short stores half floats with at most 7 significant bits, so that
	// scale*zero-point is a half float too (needed by formats that store
	// the minimum in place of the zero-point).
	F16Short
	// BF16 stores bfloat16: for models that compute in it, whose engines convert
	// scales to the model's type, and whose activations may be beyond half floats.
	BF16
)

var scaleTypes = enum.New[ScaleType]("ScaleType", "scale type", ErrScheme, "f16", "f32", "f16short", "bf16")

// String returns the type's text.
func (t ScaleType) String() string { return scaleTypes.String(t) }

// MarshalText implements encoding.TextMarshaler.
func (t ScaleType) MarshalText() ([]byte, error) { return scaleTypes.Marshal(t) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *ScaleType) UnmarshalText(text []byte) error { return scaleTypes.Unmarshal(t, text) }

// ParseScaleType reads "f16", "f32", "f16short" or "bf16". Errors wrap ErrScheme.
func ParseScaleType(s string) (ScaleType, error) { return scaleTypes.Parse(s) }

// Bits returns the bits a stored scale takes.
func (t ScaleType) Bits() int {
	if t == F32 {
		return 32
	}
	return 16
}

// WholeLine as a group size makes one group of a whole row (OC) or column (IC).
const WholeLine = -1

// Scheme is a quantization grid for a weight [out, in].
type Scheme struct {
	Bits      int       `json:"bits"`       // 2 … 8
	GroupSize int       `json:"group_size"` // weights per group along the axis, or WholeLine; the last group may be shorter
	Axis      Axis      `json:"axis"`       // inside which channel a group lies
	Symmetric bool      `json:"symmetric"`  // zero-point fixed at 2^(Bits-1)
	Strided   bool      `json:"strided"`    // axis IC only: group k of n holds outputs k, k+n, k+2n, …; GroupSize must divide out
	Range     Range     `json:"range"`      // asymmetric range rule
	ScaleType ScaleType `json:"scale_type"` // type of the stored scales
	Clip      bool      `json:"clip"`       // shrink each group's range to minimize Σ|err|^2.4 (GPTQ's mse option)
	ClipInput bool      `json:"clip_input"` // with Clip, minimize Σ H_jj err² instead, and try the zero-points beside the rounded one
	MinZero   int       `json:"min_zero"`   // asymmetric zero-points are at least this; 1 keeps GPTQ v1 files unambiguous

	// Grid is what values a group can take, if they are not evenly spaced or
	// their parameters not stored as ScaleType and zero-points; nil means the
	// uniform grid. It has rules of its own for what Symmetric, Range,
	// ScaleType and MinZero say of the uniform one: they must be 0. JSON has
	// its text, and cannot be read back where there is one.
	Grid Grid `json:"grid,omitempty"`
}

// ErrScheme is wrapped by every error about an impossible scheme.
var ErrScheme = errors.New("invalid quantization scheme")

// Validate reports whether s is possible at all; CheckShape also looks at a shape.
func (s Scheme) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrScheme, fmt.Sprintf(format, args...))
	}
	switch {
	case s.Bits < 2 || s.Bits > 8:
		return bad("bits %d, want 2 to 8", s.Bits)
	case s.GroupSize == 0 || s.GroupSize < WholeLine:
		return bad("group size %d, want a positive number or %d for whole rows or columns", s.GroupSize, WholeLine)
	case s.GroupSize > math.MaxInt32:
		return bad("group size %d, want at most %d, as files have it", s.GroupSize, math.MaxInt32)
	case s.Strided && s.Axis == OC:
		return bad("strided groups need axis ic")
	case s.MinZero < 0 || s.MinZero > 1:
		return bad("smallest zero-point %d, want 0 or 1", s.MinZero)
	}
	if g := s.Grid; g != nil {
		if g.Bits() != s.Bits {
			return bad("bits %d, want %d of the grid", s.Bits, g.Bits())
		}
		if s.Symmetric || s.Range != 0 || s.ScaleType != 0 || s.MinZero != 0 {
			return bad("symmetric, range, scale type and smallest zero-point are for the uniform grid only")
		}
	}
	for _, err := range []error{axes.Check(s.Axis), ranges.Check(s.Range), scaleTypes.Check(s.ScaleType)} {
		if err != nil {
			return err
		}
	}
	return nil
}

// CheckShape reports whether a weight [out, in] can be quantized with s.
func (s Scheme) CheckShape(out, in int) error {
	if err := s.Validate(); err != nil {
		return err
	}
	if out < 1 || in < 1 {
		return fmt.Errorf("%w: weight of shape [%d %d]", ErrScheme, out, in)
	}
	if s.Strided && s.GroupSize != WholeLine && out%s.GroupSize != 0 {
		return fmt.Errorf("%w: strided groups of %d do not divide %d outputs", ErrScheme, s.GroupSize, out)
	}
	return nil
}

// MaxCode is the largest code, 2^Bits-1.
func (s Scheme) MaxCode() int { return 1<<s.Bits - 1 }

// Lines returns the number of lines (rows for OC, columns for IC) of a
// weight [out, in] and their length.
func (s Scheme) Lines(out, in int) (lines, length int) {
	if s.Axis == IC {
		return in, out
	}
	return out, in
}

// Groups returns the number of groups in a line of the given length.
func (s Scheme) Groups(length int) int {
	g := s.GroupLen(length)
	return (length + g - 1) / g
}

// GroupLen returns the length of a full group in a line of the given length.
func (s Scheme) GroupLen(length int) int {
	if s.GroupSize == WholeLine || s.GroupSize > length {
		return length
	}
	return s.GroupSize
}

// SpanLen returns the number of weights, in a line of the given length, whose
// groups store their parameters together (Grid.Span).
func (s Scheme) SpanLen(length int) int {
	return min(s.GroupLen(length)*GridOf(s).Span(), length)
}
