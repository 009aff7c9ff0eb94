// Package gptq quantizes a weight with error feedback: each column takes up
// the error that the columns before it have left behind, as far as the
// inputs' second moments H allow.
//
// The result is that of GPTQ (Frantar et al., arXiv 2210.17323). It is
// computed without forming an inverse, in the equivalent form of LDLQ
// (Chee et al., QuIP, arXiv 2307.13304, §3): with H = (I+F) D (I+F)ᵀ, F
// strictly upper triangular, the columns are quantized left to right as
//
//	q_j = Q(w_j + Σ_{i<j} (w_i - q_i) F_ij)
//
// and tr(E H Eᵀ) = Σ_j ‖t_j - q_j‖² D_jj, where t_j is the argument of Q.
package gptq

import (
	"context"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// ErrOptions is wrapped by errors about parameters of the method that make no
// sense.
var ErrOptions = errors.New("invalid gptq options")

// Order is the order in which columns are quantized. Its text is
// "activation", "natural" or "group".
type Order uint8

const (
	// OrderActivation takes the columns by descending diagonal of H
	// (act-order); ties keep their order.
	OrderActivation Order = iota
	// OrderNatural takes the columns as they stand.
	OrderNatural
	// OrderGroup takes whole groups by descending importance, that of a group
	// being its largest diagonal of H, and the columns inside a group by descending
	// diagonal (group-aware reordering, arXiv 2505.14638): groups of axis OC stay
	// runs of neighbours although their scales are found from the corrected
	// weights. A short last group comes last. For axis IC it is OrderActivation.
	OrderGroup
)

var orders = enum.New[Order]("Order", "column order", ErrOptions, "activation", "natural", "group")

// String returns the order's text.
func (o Order) String() string { return orders.String(o) }

// MarshalText implements encoding.TextMarshaler.
func (o Order) MarshalText() ([]byte, error) { return orders.Marshal(o) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Order) UnmarshalText(text []byte) error { return orders.Unmarshal(o, text) }

// ParseOrder reads "activation", "natural" or "group". Errors wrap ErrOptions.
func ParseOrder(s string) (Order, error) { return orders.Parse(s) }

// Groups says from which weights a group's scale is found. Its text is
// "auto", "static" or "dynamic".
type Groups uint8

const (
	// GroupsAuto is GroupsStatic for axis OC with OrderActivation, else GroupsDynamic.
	GroupsAuto Groups = iota
	// GroupsStatic finds all scales from the original weights first, so that
	// groups stay runs of neighbours under act-order.
	GroupsStatic
	// GroupsDynamic finds a scale from the error-corrected weights when its
	// group is reached. Under OrderActivation a group of axis OC then holds columns
	// that are not neighbours, and the weight gets a GroupIndex.
	GroupsDynamic
)

var groupRules = enum.New[Groups]("Groups", "rule for groups", ErrOptions, "auto", "static", "dynamic")

// String returns the rule's text.
func (g Groups) String() string { return groupRules.String(g) }

// MarshalText implements encoding.TextMarshaler.
func (g Groups) MarshalText() ([]byte, error) { return groupRules.Marshal(g) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *Groups) UnmarshalText(text []byte) error { return groupRules.Unmarshal(g, text) }

// ParseGroups reads "auto", "static" or "dynamic". Errors wrap ErrOptions.
func ParseGroups(s string) (Groups, error) { return groupRules.Parse(s) }

// DefaultDamping is the fraction of the mean diagonal of H that is added to
// its diagonal.
const DefaultDamping = 0.01

// Quantizer is GPTQ as a quant.Quantizer. The zero value is ready for use:
// act-order with static groups, 1 % damping, no refinement.
//
// For axis IC, groups lie inside a column and any order is free. The range
// rule RangePaper applies to axis IC only, as in the public AdaDim code.
// Where the calibration has an Output, rows take up each other's errors as columns
// do, and refinement lowers quant.CurvedLoss.
//
// Without calibration data the weight is rounded to nearest, and says so in
// its Notes.
type Quantizer struct {
	Damping float64 `json:"damping"` // fraction of the mean diagonal of H; 0 means DefaultDamping
	Order   Order   `json:"order"`
	Groups  Groups  `json:"groups"`
	Refine  Refine  `json:"refine"` // improve scales and codes afterwards; the zero value does nothing
	Workers int     `json:"-"`      // goroutines; 0 means GOMAXPROCS
}

// NeedsCalibration implements quant.DataFree: it returns true.
func (q Quantizer) NeedsCalibration() bool { return true }

// NeedsPairs implements quant.Unpaired: it returns false.
func (q Quantizer) NeedsPairs() bool { return false }

// Parameters implements quant.Parametric: it returns q with its defaults
// spelled out.
func (q Quantizer) Parameters() any {
	q.Damping = q.damping()
	q.Refine = q.Refine.withDefaults()
	return q
}

// Draft implements quant.Drafter: it returns q without its refinement, which
// costs the most.
func (q Quantizer) Draft() quant.Quantizer {
	q.Refine = Refine{}
	return q
}

// WithWorkers implements quant.Parallel.
func (q Quantizer) WithWorkers(n int) quant.Quantizer {
	q.Workers = n
	return q
}

// Validate implements quant.Validator. Errors wrap ErrOptions.
func (q Quantizer) Validate() error {
	if !(q.Damping >= 0 && q.Damping < 1) {
		return fmt.Errorf("%w: damping %g, want at least 0 and below 1", ErrOptions, q.Damping)
	}
	if err := orders.Check(q.Order); err != nil {
		return err
	}
	if err := groupRules.Check(q.Groups); err != nil {
		return err
	}
	return q.Refine.Validate()
}

// Quantize implements quant.Quantizer. Errors wrap quant.ErrScheme,
// quant.ErrScaleRange, ErrOptions or ErrNotFinite, or are ctx's.
func (q Quantizer) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	if err := s.CheckShape(w.Rows, w.Cols); err != nil {
		return nil, err
	}
	if err := q.Validate(); err != nil {
		return nil, err
	}
	if s.Axis == quant.OC {
		s.Range = quant.RangeZero
	}
	if cal == nil || cal.Tokens == 0 {
		out, err := quant.RTN{Workers: q.Workers}.Quantize(ctx, w, s, nil)
		if err == nil {
			out.Notes = append(out.Notes, "no calibration data: rounded to nearest")
		}
		return out, err
	}
	if cal.H.Rows != w.Cols {
		panic("gptq: calibration of a different width")
	}
	f, err := q.factor(cal, s)
	if err != nil {
		return nil, err
	}
	out, err := q.solve(ctx, w, s, cal, f)
	if err != nil {
		return nil, err
	}
	if f.raised {
		out.Notes = append(out.Notes, fmt.Sprintf("damping raised to %.3g: the inputs' second moments are not positive definite at %.3g", f.damping, q.damping()))
	}
	return q.Finish(ctx, w, s, cal, out)
}

// Finish implements quant.Finisher: it refines.
func (q Quantizer) Finish(ctx context.Context, w *tensor.Matrix, _ quant.Scheme, cal *quant.Calibration, draft *quant.Weight) (*quant.Weight, error) {
	if q.Refine.Rounds == 0 || cal == nil || cal.Tokens == 0 {
		return draft, nil
	}
	return Improve(ctx, w, draft, cal, q.Refine, q.Workers)
}

func (q Quantizer) damping() float64 {
	if q.Damping == 0 {
		return DefaultDamping
	}
	return q.Damping
}
