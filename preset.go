package lowbit

import (
	"fmt"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// Presets names the presets, in the order of their cost.
var Presets = []string{"paper", "fast", "best"}

// ApplyPreset sets the options that decide how well a model is quantized:
// method, clip, arms, objective, search, inputs and correction. It leaves
// bits, groups, symmetry, formats and files alone.
//
//	paper  AdaDim over GPTQ as published: both axes, raw error, search by
//	       round-to-nearest, calibrated on full-precision inputs.
//	fast   GPTQ with clip; all arms, relative error, search by
//	       round-to-nearest.
//	best   all arms, each tried with the method itself, clip, refinement, and
//	       calibration on quantized inputs with corrected targets.
//
// Arms given beforehand are kept, so that a single axis gets the rest of a
// preset too.
func (o *Options) ApplyPreset(name string) error {
	arms := adadim.AllArms()
	g := gptq.Quantizer{Workers: o.Workers}
	switch name {
	case "paper":
		arms = adadim.PaperArms()
		o.Scheme.Clip, o.Scheme.ClipInput = false, false
		o.Objective, o.Search = adadim.ObjectiveLinear, adadim.SearchRTN
		o.Inputs, o.Correction = InputsFull, 0
	case "fast":
		o.Scheme.Clip, o.Scheme.ClipInput = true, true
		o.Objective, o.Search = adadim.ObjectiveRelative, adadim.SearchRTN
		o.Inputs, o.Correction = InputsFull, 0
	case "best":
		g.Refine = gptq.DefaultRefine()
		o.Scheme.Clip, o.Scheme.ClipInput = true, true
		o.Objective, o.Search = adadim.ObjectiveRelative, adadim.SearchMethod
		o.Inputs, o.Correction = InputsQuantized, 1
	default:
		return fmt.Errorf("%w: preset %q, want one of %v", ErrOptions, name, Presets)
	}
	if o.Arms == nil {
		o.Arms = arms
	}
	if _, ok := o.method().(quant.RTN); !ok || o.Method == nil {
		o.Method = g
	}
	return nil
}
