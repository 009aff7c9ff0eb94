package main

import (
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/rotation"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	pairs "github.com/golowbit/lowbit/quant/olive"
	splitquant "github.com/golowbit/lowbit/quant/split"
)

// variant is a named way to quantize.
type variant struct {
	name  string
	set   func(o *lowbit.Options)
	where func(bits, group int) bool // nil is everywhere with at most 4 bits and groups
}

// reference is the name of a published method that the variant repeats.
func (v variant) reference() (method string, ok bool) {
	return strings.CutPrefix(v.name, "ref/")
}

// wants tells whether a cell is to be measured: of a published method, those
// for which there is a reference.
func (v variant) wants(refs referenceSet, model string, bits, group int) bool {
	if method, ok := v.reference(); ok {
		r, ok := refs[key{model, method, bits, group}]
		return ok && r.Source == "reference"
	}
	if v.where == nil {
		return bits <= 4 && group > 0
	}
	return v.where(bits, group)
}

// ablation is for what is measured at one cell only.
func ablation(bits, group int) bool { return bits == 3 && group == 64 }

// split is where SplitQuant is measured, olive and oliveTensor where OliVe is.
func split(bits, group int) bool       { return group == 64 }
func olive(bits, group int) bool       { return bits >= 4 && (group == 64 || group == quant.WholeLine) }
func oliveTensor(bits, group int) bool { return bits >= 4 && group == quant.WholeLine }

// rotations are what models are rotated by before some methods.
var rotations = map[string]rotation.Kind{
	"RTN oc, hadamard": rotation.Hadamard, "GPTQ oc, hadamard": rotation.Hadamard,
	"RTN oc, klt": rotation.KLT, "GPTQ oc, klt": rotation.KLT,
}

// own is a method that AdaDim takes its candidates from.
func own(arms []adadim.Arm, method quant.Quantizer) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.Preset, o.Arms, o.Method, o.Search = lowbit.Plain, arms, method, new(adadim.SearchMethod)
	}
}

var (
	oc = []adadim.Arm{adadim.ArmOC()}
	ic = []adadim.Arm{adadim.ArmIC()}
)

// paper sets what the reference rows were measured with.
func paper(arms []adadim.Arm, method quant.Quantizer) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.Preset, o.Range, o.ScaleType = lowbit.Plain, quant.RangePaper, new(quant.F32)
		o.Arms, o.Method, o.Inputs = arms, method, lowbit.InputsFull
	}
}

// plain is a method in one axis with half-float scales and the range rule
// with 0.
func plain(arms []adadim.Arm, method quant.Quantizer, clip bool) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.Arms, o.Method, o.Clip = arms, method, &clip
	}
}

func preset(p lowbit.Preset, arms []adadim.Arm, change func(o *lowbit.Options)) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.Preset, o.Arms = p, arms
		if change != nil {
			change(o)
		}
	}
}

func block(set func(o *lowbit.Options)) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		set(o)
		o.Objective = new(adadim.ObjectiveBlock)
	}
}

func fullInputs(set func(o *lowbit.Options)) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		set(o)
		o.Inputs = lowbit.InputsFull
	}
}

func withoutCurvature(o *lowbit.Options) { o.Curvature = lowbit.CurvatureOff }

func refine(r gptq.Refine) func(o *lowbit.Options) {
	return func(o *lowbit.Options) {
		o.GPTQ.Refine = &r
	}
}

var methods = append([]variant{
	{"ref/RTN-oc", paper(oc, quant.RTN{}), nil},
	{"ref/RTN-ic", paper(ic, quant.RTN{}), nil},
	{"ref/GPTQ-oc(dyn,no act)", paper(oc, gptq.Quantizer{Order: gptq.OrderNatural}), nil},
	{"ref/GPTQ-oc(static,act)", paper(oc, gptq.Quantizer{}), nil},
	{"ref/GPTQ-ic(act)", paper(ic, gptq.Quantizer{}), nil},
	{"ref/RTN-ada(paper)", paper(nil, quant.RTN{}), nil},
	{"ref/GPTQ-ada(paper)", paper(nil, gptq.Quantizer{}), nil},
	{"ref/RTN-ada(code)", block(paper(nil, quant.RTN{})), nil},
	{"ref/GPTQ-ada(code,o/down ref fixed)", block(paper(nil, gptq.Quantizer{})), nil},

	{"RTN oc", plain(oc, quant.RTN{}, false), func(bits, group int) bool { return bits <= 4 && group > 0 || split(bits, group) || olive(bits, group) }},
	{"RTN oc symmetric", func(o *lowbit.Options) { plain(oc, quant.RTN{}, false)(o); o.Symmetric = new(true) }, olive},
	{"SplitQuant, RTN, oc", own(oc, splitquant.Quantizer{}), split},
	{"SplitQuant, RTN, ada", own(adadim.PaperArms(), splitquant.Quantizer{}), split},
	{"SplitQuant, GPTQ, oc", own(oc, splitquant.Quantizer{Inner: gptq.Quantizer{}, Joint: true}), func(bits, group int) bool { return split(bits, group) && bits <= 4 }},
	{"OliVe oc", own(oc, pairs.Quantizer{}), olive},
	{"OliVe oc, a scale a tensor", own(oc, pairs.Quantizer{PerTensor: true}), oliveTensor},
	{"OliVe ada", own(adadim.PaperArms(), pairs.Quantizer{}), olive},
	{"RTN oc, hadamard", plain(oc, quant.RTN{}, false), split},
	{"RTN oc, klt", plain(oc, quant.RTN{}, false), split},
	{"GPTQ oc, hadamard", plain(oc, gptq.Quantizer{}, false), func(bits, group int) bool { return split(bits, group) && bits <= 4 }},
	{"GPTQ oc, klt", plain(oc, gptq.Quantizer{}, false), func(bits, group int) bool { return split(bits, group) && bits <= 4 }},
	{"RTN ic", plain(ic, quant.RTN{}, false), ablation},
	{"RTN oc clip", plain(oc, quant.RTN{}, true), nil},
	{"RTN ic clip", plain(ic, quant.RTN{}, true), ablation},
	{"GPTQ oc", plain(oc, gptq.Quantizer{}, false), nil},
	{"GPTQ ic", plain(ic, gptq.Quantizer{}, false), ablation},
	{"GPTQ oc clip", plain(oc, gptq.Quantizer{}, true), nil},
	{"GPTQ ic clip", plain(ic, gptq.Quantizer{}, true), nil},

	{"GPTQ oc, full-precision inputs", fullInputs(plain(oc, gptq.Quantizer{}, false)), ablation},
	{"GPTQ ic, full-precision inputs", fullInputs(plain(ic, gptq.Quantizer{}, false)), ablation},

	{"paper", preset(lowbit.Paper, nil, nil), nil},
	{"fast", preset(lowbit.Fast, nil, nil), nil},
	{"best", preset(lowbit.Best, nil, nil), nil},
	{"best, --axis oc", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.Axis = lowbit.AxisOC }), nil},
	{"best, no extra bits", preset(lowbit.Best, adadim.PaperArms(), nil), ablation},
	{"fast, --axis oc", preset(lowbit.Fast, nil, func(o *lowbit.Options) { o.Axis = lowbit.AxisOC }), nil},

	{"best, curvature off", preset(lowbit.Best, nil, withoutCurvature), nil},
	{"best, curvature off, raw objective", preset(lowbit.Best, nil, func(o *lowbit.Options) { withoutCurvature(o); o.Objective = new(adadim.ObjectiveLinear) }), ablation},
	{"best, no clip", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.Clip, o.ClipInput = new(false), new(false) }), ablation},
	{"best, no refinement", preset(lowbit.Best, nil, refine(gptq.Refine{})), ablation},
	{"best, no correction", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.Correction = new(0.0) }), ablation},
	{"best, full-precision inputs", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.Correction, o.Inputs = new(0.0), lowbit.InputsFull }), ablation},
	{"best, search by RTN", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.Search = new(adadim.SearchRTN) }), ablation},
	{"best, bits not counted", preset(lowbit.Best, nil, func(o *lowbit.Options) { o.CountBits = new(false) }), ablation},
	{"best, oc+in only", preset(lowbit.Best, []adadim.Arm{adadim.ArmOCInputScale()}, nil), ablation},
	{"best, ic+row only", preset(lowbit.Best, []adadim.Arm{adadim.ArmICRowScale()}, nil), ablation},
	{"best, oc arm only", preset(lowbit.Best, oc, func(o *lowbit.Options) { o.Fold = lowbit.FoldOff }), ablation},
	{"best, no extra bits, nothing folded", preset(lowbit.Best, adadim.PaperArms(), func(o *lowbit.Options) { o.Fold = lowbit.FoldOff }), ablation},
}, eightBits...)
