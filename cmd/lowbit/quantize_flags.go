package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// quantizeFlags are the flags of quantize as they stand on the command line.
type quantizeFlags struct {
	output, format string
	fit, resume    bool
	skip           []string

	preset, target       string
	method, axis, arms   string
	bits, groupSize      int
	sym, clip, clipInput bool
	rangeRule, scaleType string
	actOrder             bool
	damp                 float64
	refine               int
	objective, search    string
	inputs               string
	correct              float64
	fold                 string
	bf16                 bool
	calib                []string
	perDocument          bool
	samples, seqLen      int
	eval                 []string
	window               int
	workers              int
	json, quiet          bool
}

func (f *quantizeFlags) register(s *pflag.FlagSet) {
	s.SortFlags = false
	s.StringVarP(&f.output, "output", "o", "", "folder (or file, for gguf) to write; must not exist")
	s.StringVar(&f.format, "format", "lowbit", "format of the output: "+strings.Join(formatNames(), ", "))
	s.BoolVar(&f.fit, "fit", false, "change layers the format cannot hold to what it can, instead of refusing")

	s.StringVar(&f.target, "target", "", "engine to write for; sets format, axis, bits, group size and symmetry: "+strings.Join(checkpoint.EngineNames(), ", "))
	s.StringVar(&f.preset, "preset", "", "how hard to try; sets arms, clip, objective, search, inputs, correction and refinement: "+strings.Join(lowbit.Presets, ", ")+" (default "+defaultPreset+", unless a flag below from --method to --correct is given)")

	s.StringVar(&f.method, "method", "gptq", "how weights are put on the grid: gptq or rtn")
	s.StringVar(&f.axis, "axis", "ada", "where groups lie: oc (output channels), ic (input channels) or ada (chosen for every layer); with --preset, oc also folds input scales")
	s.IntVar(&f.bits, "bits", 4, "bits a weight, 2 to 8")
	s.IntVar(&f.groupSize, "group-size", 128, "weights that share a scale; -1 for whole channels")
	s.BoolVar(&f.sym, "sym", false, "symmetric grid: the zero-point is fixed")
	s.BoolVar(&f.actOrder, "act-order", true, "GPTQ takes the most active inputs first, with static groups")
	s.BoolVar(&f.clip, "clip", false, "clip each group's range where that lowers its error")
	s.BoolVar(&f.clipInput, "clip-input", false, "with --clip, weigh errors by the inputs, and try neighbouring zero-points")
	s.StringVar(&f.rangeRule, "range", "zero", "range of an asymmetric group: zero (extended to hold 0) or paper (as in the public AdaDim code)")
	s.StringVar(&f.scaleType, "scale-dtype", "f16", "type of the stored scales: f16, f32, or f16short (half floats of 7 bits, for Q4_1 in gguf)")
	s.Float64Var(&f.damp, "damp", gptq.DefaultDamping, "GPTQ's damping, as a fraction of the mean diagonal of H")
	s.IntVar(&f.refine, "refine", 0, "rounds of refinement of scales and codes after GPTQ")

	s.StringVar(&f.arms, "arms", "paper", "what is chosen from: paper (oc,ic), all, or a list of oc, oc+in, ic, ic+row")
	s.StringVar(&f.objective, "objective", "linear", "what decides between arms: linear, relative or block")
	s.StringVar(&f.search, "search", "rtn", "what the candidates are quantized with: rtn, or method (slower, decides on what is stored)")
	s.StringVar(&f.fold, "fold", "auto", "fold the scales of arms into the norm or layer before: auto (where the format cannot store them), on (where possible) or off")
	s.Lookup("fold").NoOptDefVal = "on"

	s.StringArrayVar(&f.calib, "calib", nil, "UTF-8 text to calibrate on (repeatable)")
	s.BoolVar(&f.perDocument, "per-document", false, "encode every document (text between blank lines) by itself, with its beginning-of-sequence token")
	s.IntVar(&f.samples, "samples", 0, "calibration windows (default 128)")
	s.IntVar(&f.seqLen, "seq-len", 0, "tokens a calibration window (default 2048 or the model's context)")
	s.StringVar(&f.inputs, "inputs", "fp", "what a block is calibrated on: fp (the unquantized model's stream) or quantized")
	s.BoolVar(&f.bf16, "bf16", false, "round the activations of a bfloat16 model to bfloat16 in calibration, where the CPU is faster at it")
	s.Float64Var(&f.correct, "correct", 0, "strength, 0 to 1, of the correction for quantized inputs; implies --inputs quantized")

	s.StringArrayVar(&f.skip, "skip", nil, "leave layers whose name matches this regular expression dense (repeatable)")
	s.BoolVar(&f.resume, "resume", false, "go on with an interrupted run")
	s.StringArrayVar(&f.eval, "eval", nil, "text to measure perplexity on afterwards, of the source and of the result (repeatable)")
	s.IntVar(&f.window, "window", 0, "tokens a window of --eval (default 2048 or the model's context)")
	s.IntVar(&f.workers, "workers", 0, "goroutines (default: all cores)")
	s.BoolVar(&f.json, "json", false, "print the report as one JSON object")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
}

func formatNames() []string {
	var names []string
	for _, f := range checkpoint.Formats() {
		names = append(names, f.Name())
	}
	return names
}

// unset sets a flag that is not on the command line.
func unset[T any](c *cobra.Command, name string, flag *T, v T) {
	if !c.Flags().Changed(name) {
		*flag = v
	}
}

// applyTarget sets what the engine wants.
func (f *quantizeFlags) applyTarget(c *cobra.Command) error {
	if f.target == "" {
		return nil
	}
	t, err := checkpoint.TargetFor(f.target)
	if err != nil {
		return err
	}
	unset(c, "format", &f.format, t.Format)
	unset(c, "axis", &f.axis, t.Scheme.Axis.String())
	unset(c, "bits", &f.bits, t.Scheme.Bits)
	unset(c, "group-size", &f.groupSize, t.Scheme.GroupSize)
	unset(c, "sym", &f.sym, t.Scheme.Symmetric)
	return nil
}

// defaultPreset is used where no flag says anything about the method; docs/accuracy.md
// has what it gains for its time.
const defaultPreset = "best"

// methodFlags are those that make a method of one's own.
var methodFlags = []string{
	"method", "axis", "arms", "clip", "clip-input", "range", "act-order", "damp", "refine",
	"objective", "search", "inputs", "correct",
}

// applyPreset sets what the preset decides.
func (f *quantizeFlags) applyPreset(c *cobra.Command) error {
	if f.preset == "" {
		for _, name := range methodFlags {
			if c.Flags().Changed(name) {
				return nil
			}
		}
		f.preset = defaultPreset
	}
	var o lowbit.Options
	if err := o.ApplyPreset(f.preset); err != nil {
		return err
	}
	var arms []string
	for _, a := range o.Arms {
		arms = append(arms, a.String())
	}
	unset(c, "arms", &f.arms, strings.Join(arms, ","))
	unset(c, "clip", &f.clip, o.Scheme.Clip)
	unset(c, "clip-input", &f.clipInput, o.Scheme.ClipInput && f.clip)
	unset(c, "objective", &f.objective, o.Objective.String())
	unset(c, "search", &f.search, o.Search.String())
	unset(c, "inputs", &f.inputs, o.Inputs.String())
	if f.inputs == lowbit.InputsQuantized.String() {
		unset(c, "correct", &f.correct, o.Correction)
	}
	if g, ok := o.Method.(gptq.Quantizer); ok && f.method == "gptq" {
		unset(c, "refine", &f.refine, g.Refine.Rounds)
	}
	return nil
}

// options turns flags into options of the library.
func (f *quantizeFlags) options(c *cobra.Command, model string) (lowbit.Options, error) {
	if err := f.applyTarget(c); err != nil {
		return lowbit.Options{}, err
	}
	if err := f.applyPreset(c); err != nil {
		return lowbit.Options{}, err
	}
	o := lowbit.Options{
		Model: model, Output: f.output, Format: f.format, Fit: f.fit, Resume: f.resume, Workers: f.workers,
		Correction: f.correct, BF16: f.bf16,
		Calibration: lowbit.Calibration{
			Text:    lowbit.Text{Files: f.calib, PerDocument: f.perDocument},
			Samples: f.samples, SeqLen: f.seqLen,
		},
	}
	if f.output == "" {
		return o, fmt.Errorf("no output given: use -o")
	}
	if f.workers < 0 {
		return o, fmt.Errorf("workers %d, want a positive number or 0 for all cores", f.workers)
	}
	if f.samples < 0 || f.seqLen < 0 {
		return o, fmt.Errorf("%d samples of %d tokens, want positive numbers", f.samples, f.seqLen)
	}
	if len(f.eval) == 0 && c.Flags().Changed("window") {
		return o, fmt.Errorf("--window is for --eval")
	}
	if f.window < 0 || f.window == 1 {
		return o, fmt.Errorf("window of %d tokens, want at least 2", f.window)
	}
	for _, pattern := range f.skip {
		r, err := regexp.Compile(pattern)
		if err != nil {
			return o, fmt.Errorf("--skip: %w", err)
		}
		o.Skip = append(o.Skip, r)
	}
	for _, set := range []func(*lowbit.Options, *cobra.Command) error{f.setScheme, f.setMethod, f.setChoice} {
		if err := set(&o, c); err != nil {
			return o, err
		}
	}
	return o, o.Validate()
}

func (f *quantizeFlags) setScheme(o *lowbit.Options, _ *cobra.Command) error {
	o.Scheme = quant.Scheme{Bits: f.bits, GroupSize: f.groupSize, Symmetric: f.sym, Clip: f.clip || f.clipInput, ClipInput: f.clipInput}
	switch f.rangeRule {
	case "zero":
	case "paper":
		o.Scheme.Range = quant.RangePaper
	default:
		return fmt.Errorf("range %q: want zero or paper", f.rangeRule)
	}
	switch f.scaleType {
	case "f16":
	case "f32":
		o.Scheme.ScaleType = quant.F32
	case "f16short":
		o.Scheme.ScaleType = quant.F16Short
	default:
		return fmt.Errorf("scale-dtype %q: want f16, f32 or f16short", f.scaleType)
	}
	if f.format == (autogptq.Format{Version: 1}).Name() && !f.sym {
		o.Scheme.MinZero = 1 // readers of that format disagree on 0
	}
	_, err := checkpoint.Lookup(f.format)
	return err
}

func (f *quantizeFlags) setMethod(o *lowbit.Options, c *cobra.Command) error {
	switch f.method {
	case "rtn":
		for _, name := range []string{"act-order", "damp", "refine"} {
			if c.Flags().Changed(name) {
				return fmt.Errorf("--%s is for --method gptq", name)
			}
		}
		o.Method = quant.RTN{Workers: f.workers}
		return nil
	case "gptq":
	default:
		return fmt.Errorf("method %q: want gptq or rtn", f.method)
	}
	if !(f.damp > 0 && f.damp < 1) {
		return fmt.Errorf("damp %g, want a fraction between 0 and 1", f.damp)
	}
	if f.refine < 0 {
		return fmt.Errorf("refine %d, want a number of rounds", f.refine)
	}
	g := gptq.Quantizer{Damping: f.damp, Workers: f.workers}
	if !f.actOrder {
		g.Order = gptq.OrderNatural
	}
	if f.refine > 0 {
		g.Refine = gptq.Refine{Rounds: f.refine, Sweeps: gptq.DefaultRefine.Sweeps}
	}
	o.Method = g
	return nil
}

func (f *quantizeFlags) setChoice(o *lowbit.Options, c *cobra.Command) error {
	arms, err := adadim.ParseArms(f.arms)
	if err != nil {
		return err
	}
	if f.axis != "ada" {
		axis, err := quant.ParseAxis(f.axis)
		if err != nil {
			return fmt.Errorf("axis %q: want oc, ic or ada", f.axis)
		}
		if !c.Flags().Changed("arms") && f.preset == "" {
			arms = []adadim.Arm{{Axis: axis}}
		}
		var kept []adadim.Arm
		for _, a := range arms {
			if a.Axis == axis {
				kept = append(kept, a)
			}
		}
		if len(kept) == 0 {
			return fmt.Errorf("--arms %s has none of axis %s", f.arms, f.axis)
		}
		arms = kept
	}
	o.Arms = arms
	// Nobody asked for these arms in particular: what the format cannot hold is left out.
	o.FitArms = f.preset != "" && !c.Flags().Changed("arms") && !c.Flags().Changed("axis")
	if o.Objective, err = adadim.ParseObjective(f.objective); err != nil {
		return err
	}
	if o.Search, err = adadim.ParseSearch(f.search); err != nil {
		return err
	}
	if f.axis == "oc" && f.preset != "" {
		// A preset in the axis that every engine reads: nothing but plain groups is stored.
		unset(c, "fold", &f.fold, lowbit.FoldOn.String())
	}
	if o.Fold, err = lowbit.ParseFold(f.fold); err != nil {
		return err
	}
	if f.correct > 0 && !c.Flags().Changed("inputs") {
		f.inputs = "quantized"
	}
	o.Inputs, err = lowbit.ParseInputs(f.inputs)
	return err
}
