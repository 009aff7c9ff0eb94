// Package choice has the small enumerations among which options choose.
package choice

import (
	"cmp"

	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/internal/faults"
)

// Axis restricts in which channels groups may lie. Its text is "default",
// "ada", "oc" or "ic".
type Axis uint8

const (
	// AxisDefault is the target's axis, or every axis of the arms that the
	// format can hold.
	AxisDefault Axis = iota
	// AxisAda lets AdaDim choose for every layer.
	AxisAda
	// AxisOC puts groups inside output channels.
	AxisOC
	// AxisIC puts groups inside input channels.
	AxisIC
)

var axes = enum.New[Axis]("Axis", "axis", faults.ErrOptions, "default", "ada", "oc", "ic")

// String returns the axis' text.
func (a Axis) String() string { return axes.String(a) }

// MarshalText implements encoding.TextMarshaler.
func (a Axis) MarshalText() ([]byte, error) { return axes.Marshal(a) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Axis) UnmarshalText(text []byte) error { return axes.Unmarshal(a, text) }

// ParseAxis reads "default", "ada", "oc" or "ic". Errors wrap faults.ErrOptions.
func ParseAxis(s string) (Axis, error) { return axes.Parse(s) }

// Fold says when scales of arms are moved into the norm or the linear before,
// so that nothing but plain groups needs to be stored and the format's engines
// run the result as it is. Input scales of q, k, v and of gate, up go into
// the norms, those of o into v, those of down into up; row scales of v and
// up are the same thing seen from the other side. The scale of an input
// is chosen once for all layers that read it, before they are quantized,
// among no scale, the powers that the arms try, and powers of the inputs over the
// weights' columns; then the layers choose among the arms that are left. Row
// scales of other layers are stored. A layer that stays dense keeps the scales of
// its input from being folded.
//
// Its text is "default", "auto", "off" or "on".
type Fold uint8

const (
	// FoldDefault is FoldOn for a preset that is restricted to axis oc, so
	// that the result is plain groups, which every engine reads, and for fast and
	// best with arms of which none has scales; else FoldAuto.
	FoldDefault Fold = iota
	// FoldAuto folds where the format cannot store the scales.
	FoldAuto
	// FoldOff stores all scales.
	FoldOff
	// FoldOn folds wherever it is possible, whether or not an arm has the scale.
	FoldOn
)

var folds = enum.New[Fold]("Fold", "fold", faults.ErrOptions, "default", "auto", "off", "on")

// String returns the text of f.
func (f Fold) String() string { return folds.String(f) }

// MarshalText implements encoding.TextMarshaler.
func (f Fold) MarshalText() ([]byte, error) { return folds.Marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fold) UnmarshalText(text []byte) error { return folds.Unmarshal(f, text) }

// ParseFold reads "default", "auto", "off" or "on". Errors wrap faults.ErrOptions.
func ParseFold(s string) (Fold, error) { return folds.Parse(s) }

// Curvature says whether errors are judged by the model's own loss: one pass back
// through the unquantized model collects, for each layer, the second moments O of the
// gradients at its outputs, and what is made small is tr(O E H Eᵀ) instead of the error
// of the layer's output: GPTQ's feedback and refinement and the choice among arms go by
// it. A model with an operation that no gradient goes back through is refused where it is
// on, and done without it by default. Its text is "default", "off" or "on".
type Curvature uint8

const (
	// CurvatureDefault is CurvatureOn for preset Best with its own method, unless another
	// Objective or an importance matrix in place of text is given; else CurvatureOff.
	CurvatureDefault Curvature = iota
	// CurvatureOff judges by the outputs of layers.
	CurvatureOff
	// CurvatureOn judges by the model's loss.
	CurvatureOn
)

var curvatures = enum.New[Curvature]("Curvature", "curvature", faults.ErrOptions, "default", "off", "on")

// String returns the text of c.
func (c Curvature) String() string { return curvatures.String(c) }

// MarshalText implements encoding.TextMarshaler.
func (c Curvature) MarshalText() ([]byte, error) { return curvatures.Marshal(c) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Curvature) UnmarshalText(text []byte) error { return curvatures.Unmarshal(c, text) }

// ParseCurvature reads "default", "off" or "on". Errors wrap faults.ErrOptions.
func ParseCurvature(s string) (Curvature, error) { return curvatures.Parse(s) }

// Inputs says what a block sees while it is calibrated. Its text is
// "default", "full" or "quantized".
type Inputs uint8

const (
	// InputsDefault is what the preset says.
	InputsDefault Inputs = iota
	// InputsFull shows every block what it sees in the unquantized model.
	InputsFull
	// InputsQuantized shows a block what the quantized layers before it make
	// of the text, layer group by layer group.
	InputsQuantized
)

var inputs = enum.New[Inputs]("Inputs", "inputs", faults.ErrOptions, "default", "full", "quantized")

// String returns the text of i.
func (i Inputs) String() string { return inputs.String(i) }

// MarshalText implements encoding.TextMarshaler.
func (i Inputs) MarshalText() ([]byte, error) { return inputs.Marshal(i) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Inputs) UnmarshalText(text []byte) error { return inputs.Unmarshal(i, text) }

// ParseInputs reads "default", "full" or "quantized". Errors wrap faults.ErrOptions.
func ParseInputs(s string) (Inputs, error) { return inputs.Parse(s) }

// Fit says what is done about a layer that the format cannot hold. Its text
// is "auto", "off", "arms" or "on".
type Fit uint8

const (
	// FitAuto is FitArms where neither Arms nor AxisAda was asked for, else FitOff.
	FitAuto Fit = iota
	// FitOff refuses the layer.
	FitOff
	// FitArms leaves out arms that the format cannot hold, as long as one is
	// left, and refuses otherwise.
	FitArms
	// FitOn changes the layer to what the format can hold: other arms, a
	// smaller group, or dense.
	FitOn
)

var fits = enum.New[Fit]("Fit", "fit", faults.ErrOptions, "auto", "off", "arms", "on")

// String returns the text of f.
func (f Fit) String() string { return fits.String(f) }

// MarshalText implements encoding.TextMarshaler.
func (f Fit) MarshalText() ([]byte, error) { return fits.Marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fit) UnmarshalText(text []byte) error { return fits.Unmarshal(f, text) }

// ParseFit reads "auto", "off", "arms" or "on". Errors wrap faults.ErrOptions.
func ParseFit(s string) (Fit, error) { return fits.Parse(s) }

// Check refuses values that are none.
func Check(a Axis, f Fold, c Curvature, i Inputs, t Fit) error {
	return cmp.Or(axes.Check(a), folds.Check(f), curvatures.Check(c), inputs.Check(i), fits.Check(t))
}
