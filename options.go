package lowbit

import (
	"cmp"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/choice"
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
	// Part, if it is one, does its part of the work beside others, which must have the same
	// options: they share the folder Output+".partial". Resume goes without saying then.
	Part Part

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

// What options choose among. Each has a text, which its parser reads.
type (
	// Axis restricts in which channels groups may lie: "default", "ada", "oc" or "ic".
	Axis = choice.Axis
	// Fold says when scales of arms are moved into the norm or the linear before: "default",
	// "auto", "off" or "on".
	Fold = choice.Fold
	// Curvature says whether errors are judged by the model's own loss: "default", "off" or "on".
	Curvature = choice.Curvature
	// Inputs says what a block sees while it is calibrated: "default", "full" or "quantized".
	Inputs = choice.Inputs
	// Fit says what is done about a layer that the format cannot hold: "auto", "off", "arms"
	// or "on".
	Fit = choice.Fit
)

// The values of these types.
const (
	AxisDefault = choice.AxisDefault // the target's axis, or every axis of the arms that the format can hold
	AxisAda     = choice.AxisAda     // AdaDim chooses for every layer
	AxisOC      = choice.AxisOC      // groups inside output channels
	AxisIC      = choice.AxisIC      // groups inside input channels

	FoldDefault = choice.FoldDefault // FoldOn for a preset restricted to axis oc, and for fast and best without arms that have scales; else FoldAuto
	FoldAuto    = choice.FoldAuto    // where the format cannot store the scales
	FoldOff     = choice.FoldOff     // all scales are stored
	FoldOn      = choice.FoldOn      // wherever it is possible

	CurvatureDefault = choice.CurvatureDefault // CurvatureOn for preset Best with its own method, with text and without another Objective
	CurvatureOff     = choice.CurvatureOff     // by the outputs of layers
	CurvatureOn      = choice.CurvatureOn      // by the model's loss

	InputsDefault   = choice.InputsDefault   // what the preset says
	InputsFull      = choice.InputsFull      // what a block sees in the unquantized model
	InputsQuantized = choice.InputsQuantized // what the quantized layers before make of the text

	FitAuto = choice.FitAuto // FitArms where neither Arms nor AxisAda was asked for, else FitOff
	FitOff  = choice.FitOff  // the layer is refused
	FitArms = choice.FitArms // arms are left out, as long as one is left
	FitOn   = choice.FitOn   // the layer is changed to what the format can hold
)

// ParseAxis reads an Axis, ParseFold a Fold, and so on. Errors wrap ErrOptions.
func ParseAxis(s string) (Axis, error)           { return choice.ParseAxis(s) }
func ParseFold(s string) (Fold, error)           { return choice.ParseFold(s) }
func ParseCurvature(s string) (Curvature, error) { return choice.ParseCurvature(s) }
func ParseInputs(s string) (Inputs, error)       { return choice.ParseInputs(s) }
func ParseFit(s string) (Fit, error)             { return choice.ParseFit(s) }

// armsAlong returns the arms of an axis.
func armsAlong(a Axis, arms []adadim.Arm) []adadim.Arm {
	var left []adadim.Arm
	for _, arm := range arms {
		if a == AxisDefault || a == AxisAda || (a == AxisIC) == (arm.Axis == quant.IC) {
			left = append(left, arm)
		}
	}
	return left
}

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
	if err := cmp.Or(o.Evaluation.validate(), o.Tuning.Validate()); err != nil {
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
	if err := cmp.Or(presets.Check(o.Preset), choice.Check(o.Axis, o.Fold, o.Curvature, o.Inputs, o.Fit)); err != nil {
		return err
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
	case !o.Text.Given():
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
	if err := o.Text.Validate(); err != nil {
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
