package lowbit

import (
	"cmp"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/quant"
)

// Options describe a quantization. Model and Output must be given, and text
// where the method needs it. Every other field has a default, found by one rule:
//
//   - Preset is the base. It is Best, or Plain where a Method is given.
//   - Target, the engine to write for, sets format, axis, bits, group size and
//     symmetry.
//   - A field that is given (neither nil nor zero) overrides that one setting
//     of the preset or target. The others stay.
//
// The order in which fields are set does not matter. Resolve tells what comes
// out, and why. Options are not modified.
type Options struct {
	Model  string // folder of the model to quantize
	Output string // folder (or file, as the format has it) to make; must not exist
	// Base is the model that the LoRA adapter in Model is merged into; ""
	// means the one that its configuration names. It must be "" for others.
	Base string
	// Format is that of the output; nil means the target's, or native.Format.
	Format layout.Format
	// MaxShardBytes splits the output into files of at most this many bytes
	// of tensors; 0 means that of package safetensors. It is an error for a
	// format of one file.
	MaxShardBytes int64
	// Target names an engine (see checkpoint.EngineNames). What it would not
	// load is refused before work starts, with an error that wraps ErrTarget.
	Target string

	// Preset sets method, clip, arms, objective, search, inputs and correction.
	Preset Preset

	// Bits, GroupSize, Symmetric, Range, ScaleType and MinZero are the uniform grid. A
	// Format that chooses the grid of each layer itself (layout.Mixer), such as
	// ggufmodel.Format with a Type, leaves nothing of it to be chosen but that Bits may
	// say again what it is; and ggufmodel.Format without one is one of Q2_K or Q3_K
	// where Bits is 2 or 3 and none of the others is given.
	Bits      int   // bits a weight, 2 … 8; 0 means 4, or the target's or format's
	GroupSize int   // weights that share a scale, or quant.WholeLine; 0 means 128, or the target's or the format's (32 in gguf)
	Symmetric *bool // the zero-point is fixed; nil means false, or the target's
	Range     quant.Range
	// ScaleType is F16 if nil, or BF16 where a format would make a bfloat16 model
	// one of half floats for it.
	ScaleType *quant.ScaleType
	MinZero   int   // least zero-point of asymmetric groups; 0 means what the format needs
	Clip      *bool // see quant.Scheme
	ClipInput *bool // see quant.Scheme; implies Clip

	// Method quantizes each layer. nil means GPTQ, as the preset has it. What
	// it can tell of itself beyond quant.Quantizer (quant.DataFree,
	// quant.Parametric, quant.Drafter, …) is asked.
	Method quant.Quantizer
	// GPTQ changes single parameters of the preset's GPTQ. It must be zero
	// where Method is given.
	GPTQ GPTQ

	// Axis restricts the arms to one axis. AxisAda insists on both: a format
	// that holds one of them only is refused.
	Axis Axis
	// Arms are what AdaDim chooses from, layer by layer. nil means the
	// preset's, of which those that the format cannot hold are left out (see
	// Fit). With one arm nothing is searched.
	Arms      []adadim.Arm
	Objective *adadim.Objective
	Search    *adadim.Search
	CountBits *bool // an arm must be worth the bits that it stores; see adadim.Quantizer
	Fold      Fold

	Calibration Calibration
	// Importance is a file with an importance matrix of llama.cpp's, in either of its forms,
	// that stands in for text (see ggufmodel.ReadImportance): of H the diagonal is known, and
	// GPTQ has no errors to feed back. Scales are not folded.
	Importance string
	// SaveImportance is a file to write one to, in llama.cpp's GGUF form, of the inputs
	// that layers are calibrated on. Unless Resume, it must not exist.
	SaveImportance string
	Inputs         Inputs
	// Correction moves the target of each layer to make up for what the
	// layers before it have lost (after GPTAQ, arXiv 2504.02692; see
	// gptq.Correct), with this strength: 1 goes as far as the calibration text
	// bears out, 0 is none. It implies InputsQuantized.
	Correction *float64

	// Curvature judges errors by what they cost the model's own loss.
	Curvature Curvature

	// Tuning tunes the quantized model as a whole once all layers are quantized.
	Tuning Tuning

	// Skip leaves layers whose name matches any of these dense. One that
	// matches no layer is an error.
	Skip []*regexp.Regexp
	// Include and Exclude are about what is found by names and shapes, where the
	// method is quant.RTN and no decoder knows the architecture: a tensor that
	// matches any of Include (its name, ".weight" and all) is quantized although
	// its name is that of an embedding, a head, a router and the like; a layer
	// that matches any of Exclude stays dense, whatever Include says. With a known
	// architecture Include adds to its linears, if there is no calibration, and
	// Exclude is Skip. One that matches nothing is an error.
	Include, Exclude []*regexp.Regexp
	// Rules change bits, groups, axis and more of single layers. One that counts for no
	// layer is an error.
	Rules []Rule
	// Budget shares bits out among the layers.
	Budget Budget
	// Fit says what is done about layers that the format cannot hold.
	Fit Fit

	// BF16 runs the calibration text through a bfloat16 model with activations
	// rounded to bfloat16 for the products of linear layers, whose sums stay
	// in float32: faster on CPUs with AVX512_BF16, without effect on others
	// and on other models.
	BF16 bool

	// Workers limits goroutines, those of a Method that is quant.Parallel
	// too; 0 means GOMAXPROCS.
	Workers int
	// Memory is how many bytes the process may use; 0 means 80 % of what the
	// machine or its control group has. Residual streams that do not fit lie in a
	// file in the folder Output+".partial". What does not fit all the same is
	// refused before work starts, with an error that wraps ErrMemory. The garbage
	// collector's limit is lowered for as long as Quantize runs. Nothing in the
	// result depends on it.
	Memory int64
	Resume bool // go on with what an interrupted run left behind

	// Evaluation, if it has text, is what the result is measured on, and the
	// source beside it. Like that for calibration the text is read before the
	// work; the result is measured when it is complete and before it has its name.
	Evaluation Measurement

	Channels bool // every layer's LayerReport.Channels, where layers are not rounded in pieces
	// Events, if not nil, is told of progress, from one goroutine at a time.
	Events func(Event)
}

// Rule changes what is asked of some layers; fitting.ParseRule reads one.
type Rule = fitting.Rule

// GPTQ are changes to the GPTQ of a preset.
type GPTQ struct {
	Damping float64      // fraction of the mean diagonal of H, below 1; 0 means the preset's
	Order   *gptq.Order  // nil means the preset's
	Refine  *gptq.Refine // nil means the preset's
}

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

var axes = enum.New[Axis]("Axis", "axis", ErrOptions, "default", "ada", "oc", "ic")

// String returns the axis' text.
func (a Axis) String() string { return axes.String(a) }

// MarshalText implements encoding.TextMarshaler.
func (a Axis) MarshalText() ([]byte, error) { return axes.Marshal(a) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Axis) UnmarshalText(text []byte) error { return axes.Unmarshal(a, text) }

// ParseAxis reads "default", "ada", "oc" or "ic". Errors wrap ErrOptions.
func ParseAxis(s string) (Axis, error) { return axes.Parse(s) }

// of returns the arms of the axis.
func (a Axis) of(arms []adadim.Arm) []adadim.Arm {
	var left []adadim.Arm
	for _, arm := range arms {
		if a == AxisDefault || a == AxisAda || (a == AxisIC) == (arm.Axis == quant.IC) {
			left = append(left, arm)
		}
	}
	return left
}

// Fold says when scales of arms are moved into the norm or the linear before,
// so that nothing but plain groups needs to be stored and the format's engines
// run the result as it is. Input scales of q, k, v and of gate, up go into
// the norms, those of o into v, those of down into up; row scales of v and
// up are the same thing seen from the other side. The scale of an input
// is chosen once for all layers that read it, before they are quantized,
// among no scale and the powers that the arms try; then the layers choose
// among the arms that are left. Row scales of other layers are stored.
// Without arms that have scales none of the values does anything. A layer that
// stays dense keeps the scales of its input from being folded.
//
// Its text is "default", "auto", "off" or "on".
type Fold uint8

const (
	// FoldDefault is FoldOn for a preset that is restricted to axis oc, so
	// that the result is plain groups, which every engine reads; else FoldAuto.
	FoldDefault Fold = iota
	// FoldAuto folds where the format cannot store the scales.
	FoldAuto
	// FoldOff stores all scales.
	FoldOff
	// FoldOn folds wherever it is possible.
	FoldOn
)

var folds = enum.New[Fold]("Fold", "fold", ErrOptions, "default", "auto", "off", "on")

// String returns the text of f.
func (f Fold) String() string { return folds.String(f) }

// MarshalText implements encoding.TextMarshaler.
func (f Fold) MarshalText() ([]byte, error) { return folds.Marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fold) UnmarshalText(text []byte) error { return folds.Unmarshal(f, text) }

// ParseFold reads "default", "auto", "off" or "on". Errors wrap ErrOptions.
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

var curvatures = enum.New[Curvature]("Curvature", "curvature", ErrOptions, "default", "off", "on")

// String returns the text of c.
func (c Curvature) String() string { return curvatures.String(c) }

// MarshalText implements encoding.TextMarshaler.
func (c Curvature) MarshalText() ([]byte, error) { return curvatures.Marshal(c) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Curvature) UnmarshalText(text []byte) error { return curvatures.Unmarshal(c, text) }

// ParseCurvature reads "default", "off" or "on". Errors wrap ErrOptions.
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

var inputs = enum.New[Inputs]("Inputs", "inputs", ErrOptions, "default", "full", "quantized")

// String returns the text of i.
func (i Inputs) String() string { return inputs.String(i) }

// MarshalText implements encoding.TextMarshaler.
func (i Inputs) MarshalText() ([]byte, error) { return inputs.Marshal(i) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *Inputs) UnmarshalText(text []byte) error { return inputs.Unmarshal(i, text) }

// ParseInputs reads "default", "full" or "quantized". Errors wrap ErrOptions.
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

var fits = enum.New[Fit]("Fit", "fit", ErrOptions, "auto", "off", "arms", "on")

// String returns the text of f.
func (f Fit) String() string { return fits.String(f) }

// MarshalText implements encoding.TextMarshaler.
func (f Fit) MarshalText() ([]byte, error) { return fits.Marshal(f) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fit) UnmarshalText(text []byte) error { return fits.Unmarshal(f, text) }

// ParseFit reads "auto", "off", "arms" or "on". Errors wrap ErrOptions.
func ParseFit(s string) (Fit, error) { return fits.Parse(s) }

// Validate reports what is wrong with o, without looking at any file. Every
// error wraps ErrOptions.
func (o *Options) Validate() error {
	switch {
	case o.Model == "":
		return badOptions("no model given")
	case o.Output == "":
		return badOptions("no output given")
	}
	if err := checkLimits(o.Workers, o.Memory); err != nil {
		return err
	}
	if err := cmp.Or(o.Calibration.validate(), o.checkImportance()); err != nil {
		return err
	}
	if err := cmp.Or(o.Evaluation.validate(), o.Tuning.validate()); err != nil {
		return err
	}
	if err := o.Budget.Validate(); err != nil {
		return badOptions("%w", err)
	}
	if slices.Contains(slices.Concat(o.Skip, o.Include, o.Exclude), nil) {
		return badOptions("a nil pattern to skip, include or exclude")
	}
	if slices.ContainsFunc(o.Rules, func(r Rule) bool { return r.Match == nil }) {
		return badOptions("a rule without an expression")
	}
	for _, err := range []error{
		presets.Check(o.Preset), axes.Check(o.Axis), folds.Check(o.Fold), inputs.Check(o.Inputs), fits.Check(o.Fit), curvatures.Check(o.Curvature),
	} {
		if err != nil {
			return err
		}
	}
	s, err := o.resolve()
	if err != nil {
		return err
	}
	if err := checkShards(s.format, o.MaxShardBytes); err != nil {
		return err
	}
	return s.validate()
}

// checkShards reports whether files of a format can be limited to n bytes.
func checkShards(f layout.Format, n int64) error {
	if n < 0 {
		return badOptions("files of at most %d bytes", n)
	}
	if _, file := f.(layout.File); file && n > 0 {
		return badOptions("format %s is one file and cannot be split", f.Name())
	}
	return nil
}

// validate checks what the options have led to.
func (s *settings) validate() error {
	if err := s.scheme.Validate(); err != nil {
		return badOptions("%w", err)
	}
	if !(s.correction >= 0 && s.correction <= 1) {
		return badOptions("correction %g, want 0 to 1", s.correction)
	}
	if s.correction > 0 && s.inputs != InputsQuantized {
		return badOptions("correction needs quantized inputs")
	}
	if err := s.chooser(s.arms).Validate(); err != nil {
		return badOptions("%w", err)
	}
	return nil
}

// checkLimits checks what any work may use.
func checkLimits(workers int, memory int64) error {
	switch {
	case workers < 0:
		return badOptions("%d workers, want a positive number or 0 for all cores", workers)
	case memory < 0:
		return badOptions("%d bytes of memory, want a positive number or 0 for 80 %% of what there is", memory)
	}
	return nil
}

// Validate reports what is wrong with o, without looking at any file. Every
// error wraps ErrOptions.
func (o *EvalOptions) Validate() error {
	switch {
	case o.Model == "":
		return badOptions("no model given")
	case !o.Text.given():
		return badOptions("no text given")
	case len(o.Text.Weights) > 0:
		return badOptions("weights of texts are for calibration: all that is measured on counts alike")
	case o.Int8Inputs != nil && !(*o.Int8Inputs >= 0):
		return badOptions("outliers from %g on, want 0 or more", *o.Int8Inputs)
	case o.Packed && o.Int8Inputs != nil:
		return badOptions("products from packed codes, and inputs in 8 bits: want one of them")
	}
	if err := checkWindow(o.Window); err != nil {
		return err
	}
	if o.Sequences {
		if err := o.checkSequences(); err != nil {
			return err
		}
	}
	if err := o.Text.validate(); err != nil {
		return err
	}
	return checkLimits(o.Workers, o.Memory)
}

func checkWindow(n int) error {
	if n < 0 || n == 1 {
		return badOptions("window of %d tokens, want at least 2", n)
	}
	return nil
}

// checkSequences checks the options where each sequence of ids is a window.
func (o *EvalOptions) checkSequences() error {
	if o.Text.Documents != nil || len(o.Text.Files)+len(o.Text.Readers)+len(o.Text.Strings) > 0 {
		return badOptions("sequences are token ids, and other text is given too")
	}
	if o.Window != 0 {
		return badOptions("window of %d tokens, but each sequence of token ids is a window", o.Window)
	}
	longest := 0
	for i, ids := range o.Text.IDs {
		if len(ids) == 0 {
			return badOptions("sequence %d of token ids is empty", i)
		}
		longest = max(longest, len(ids))
	}
	if longest < 2 {
		return badOptions("sequences of one token: nothing is predicted")
	}
	return nil
}

// Validate reports what is wrong with o, without looking at any file. Every
// error wraps ErrOptions.
func (o *ConvertOptions) Validate() error {
	switch {
	case o.Model == "":
		return badOptions("no model given")
	case o.Output == "":
		return badOptions("no output given")
	case o.Format == nil:
		return badOptions("no format given")
	}
	if err := checkShards(o.Format, o.MaxShardBytes); err != nil {
		return err
	}
	return checkLimits(o.Workers, o.Memory)
}
