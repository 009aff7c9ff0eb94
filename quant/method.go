package quant

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/golowbit/lowbit/tensor"
)

// Quantizer is a quantization method. Quantize puts w [out, in] on the grid
// that s describes. cal may be nil for methods that need no data; methods
// that do need it say what they do without. The weight is not modified.
//
// Implementations must be safe for concurrent use and give the same result
// for any number of workers.
//
// Quantize is all that a method must have. What more a caller may want to
// know of it, the method can tell by any of the interfaces DataFree, Unpaired,
// Validator, Parametric, Drafter, Finisher, Parallel, Sized, Gridded, Schemer, Summed, Keeper
// and Surveyor. Callers do not assert these themselves: the functions NeedsCalibration,
// NeedsPairs, Validate, Parameters, Draft, Finish, WithWorkers, Memory, OwnScheme, SchemeOf, Summands,
// KeepsColumns and Surveyed do, and have an answer for methods that implement none.
type Quantizer interface {
	Quantize(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration) (*Weight, error)
}

// DataFree is implemented by methods that can do without calibration data.
type DataFree interface {
	// NeedsCalibration reports whether Quantize needs calibration data. A
	// method that answers false is given nil where there is none.
	NeedsCalibration() bool
}

// NeedsCalibration reports whether q needs calibration data: what q says, or
// true if it is not DataFree.
func NeedsCalibration(q Quantizer) bool {
	if d, ok := q.(DataFree); ok {
		return d.NeedsCalibration()
	}
	return true
}

// Unpaired is implemented by methods that can do without what compares two
// streams: the calibration's Cross, Residual and Halves.
type Unpaired interface {
	// NeedsPairs reports whether Quantize looks at these. A method that answers
	// false is given none: the targets of layers that share an input are then
	// corrected together, in less memory and time (see gptq.CorrectAll).
	NeedsPairs() bool
}

// NeedsPairs reports whether q looks at what compares two streams: what q says,
// or true if it is not Unpaired.
func NeedsPairs(q Quantizer) bool {
	if u, ok := q.(Unpaired); ok {
		return u.NeedsPairs()
	}
	return true
}

// Validator is implemented by methods some of whose parameters make no sense.
type Validator interface {
	// Validate reports what is wrong with the method's parameters. Quantize
	// returns the same error.
	Validate() error
}

// Validate returns what q finds wrong with its own parameters, nil if it is
// not a Validator. It is asked before work starts.
func Validate(q Quantizer) error {
	if v, ok := q.(Validator); ok {
		return v.Validate()
	}
	return nil
}

// Parametric is implemented by methods whose parameters are not just their
// exported fields, or whose defaults should be spelled out.
type Parametric interface {
	// Parameters returns a value whose JSON encoding differs wherever two
	// methods of the type could give different weights, and does not depend
	// on the number of workers.
	Parameters() any
}

// Method is what Parameters says of a method.
type Method struct {
	Type       string          `json:"type"`       // the Go type, as package.Name
	Parameters json.RawMessage `json:"parameters"` // what decides its result
}

// Parameters returns the type of q and the parameters that decide its
// result: what q says if it is Parametric, else its JSON encoding, with the
// number of workers set to 0 if it is Parallel. Two methods of which this is
// equal are taken for the same when an interrupted run is resumed. A method
// that has parameters in fields that are not exported must be Parametric;
// one that cannot be encoded gives an error.
func Parameters(q Quantizer) (Method, error) {
	m := Method{Type: fmt.Sprintf("%T", q)}
	var value any = WithWorkers(q, 0)
	if p, ok := q.(Parametric); ok {
		value = p.Parameters()
	}
	var err error
	if m.Parameters, err = json.Marshal(value); err != nil {
		return m, fmt.Errorf("parameters of method %s (it can implement quant.Parametric): %w", m.Type, err)
	}
	return m, nil
}

// Drafter is implemented by methods that have a cheaper version of themselves.
type Drafter interface {
	// Draft returns a method that ranks candidates (axes, scales) much as
	// this one would, for less work.
	Draft() Quantizer
}

// Draft returns the method by which candidates for q are compared: q's own
// draft, or q itself if it is no Drafter.
func Draft(q Quantizer) Quantizer {
	if d, ok := q.(Drafter); ok {
		return d.Draft()
	}
	return q
}

// Finisher is implemented by methods whose work goes on where their draft ends.
type Finisher interface {
	Drafter
	// Finish returns what Quantize would, from what Draft().Quantize has returned
	// for the same arguments. The draft is not modified.
	Finish(ctx context.Context, w *tensor.Matrix, s Scheme, cal *Calibration, draft *Weight) (*Weight, error)
}

// Finish returns what q.Quantize would, given what Draft(q).Quantize has
// returned for the same arguments: the same for a method that is no Drafter.
func Finish(ctx context.Context, q Quantizer, w *tensor.Matrix, s Scheme, cal *Calibration, draft *Weight) (*Weight, error) {
	switch q := q.(type) {
	case Finisher:
		return q.Finish(ctx, w, s, cal, draft)
	case Drafter:
		return q.(Quantizer).Quantize(ctx, w, s, cal)
	}
	return draft, nil
}

// Summed is implemented by methods whose result has Weight.Summands.
type Summed interface {
	// Summands is how many, besides the weight itself; a layer may have fewer.
	Summands() int
}

// Summands returns how many summands q's result may have: what q says, or 0.
func Summands(q Quantizer) int {
	if s, ok := q.(Summed); ok {
		return s.Summands()
	}
	return 0
}

// Schemer is implemented by methods that put weights on a grid of their own, which depends on
// what is asked for.
type Schemer interface {
	// SchemeFor gives the scheme of what Quantize returns where s is asked for, of which
	// it is sure before any weight is seen. Applied again it changes nothing. Errors wrap ErrScheme.
	SchemeFor(s Scheme) (Scheme, error)
}

// SchemeOf returns the scheme of what q makes of s: what q says if it is a Schemer,
// or s.
func SchemeOf(q Quantizer, s Scheme) (Scheme, error) {
	if o, ok := q.(Schemer); ok {
		return o.SchemeFor(s)
	}
	return s, nil
}

// Parallel is implemented by methods that spread their work over goroutines.
type Parallel interface {
	// WithWorkers returns the method with at most n goroutines for a weight; 0
	// means GOMAXPROCS.
	WithWorkers(n int) Quantizer
}

// WithWorkers returns q with at most n goroutines, or q as it is if it is not
// Parallel.
func WithWorkers(q Quantizer, n int) Quantizer {
	if p, ok := q.(Parallel); ok {
		return p.WithWorkers(n)
	}
	return q
}

// Gridded is implemented by methods that know one grid only.
type Gridded interface {
	// Scheme is the scheme by which the method quantizes, whatever the layer. It has a Grid.
	Scheme() Scheme
}

// OwnScheme returns the one scheme that q knows; ok is false for methods that take any.
func OwnScheme(q Quantizer) (s Scheme, ok bool) {
	g, ok := q.(Gridded)
	if !ok {
		return s, false
	}
	return g.Scheme(), true
}

// Keeper is implemented by methods that keep columns in 16 bits (Weight.Columns) where
// the calibration tells them to.
type Keeper interface {
	// KeepsColumns reports whether Quantize may do so.
	KeepsColumns() bool
}

// KeepsColumns reports whether q may keep columns in 16 bits where there is a calibration:
// what q says, or false if it is no Keeper.
func KeepsColumns(q Quantizer) bool {
	k, ok := q.(Keeper)
	return ok && k.KeepsColumns()
}

// Surveyor is implemented by methods some of which look at the inputs of all layers before
// the first is quantized.
type Surveyor interface {
	// Survey says from which absolute value on inputs are to be counted; ok is false for a
	// method that does not look at them.
	Survey() (above float32, ok bool)
	// Surveyed returns the method as it quantizes knowing the inputs of all layers of a
	// model whose residual stream is so wide.
	Surveyed(hidden int, inputs []InputSurvey) Quantizer
}

// Surveyed returns q as it quantizes a model whose residual stream is hidden wide, knowing
// what survey says of the inputs of all layers: q itself if it does not want to know.
func Surveyed(q Quantizer, hidden int, survey func(above float32) ([]InputSurvey, error)) (Quantizer, error) {
	s, ok := q.(Surveyor)
	if !ok {
		return q, nil
	}
	above, ok := s.Survey()
	if !ok {
		return q, nil
	}
	inputs, err := survey(above)
	if err != nil {
		return q, err
	}
	return s.Surveyed(hidden, inputs), nil
}

// InputSurvey is what layers that share an input see of the text.
type InputSurvey struct {
	Block  int   // of the model, from 0 on
	Tokens int   // that went into the layers
	Above  []int // by feature: tokens in which |x_j| is at least what Surveyor.Survey says
}
