package lowbit

import (
	"math"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/told"
	"github.com/golowbit/lowbit/quant"
)

// Setting is one option as it is in effect.
type Setting = told.Setting

// settings are options with everything decided that does not depend on the
// model.
type settings struct {
	format     layout.Format
	target     string
	preset     Preset
	scheme     quant.Scheme // its axis is that of the arm
	method     quant.Quantizer
	arms       []adadim.Arm
	axis       Axis
	objective  adadim.Objective
	search     adadim.Search
	countBits  bool
	fold       Fold
	inputs     Inputs
	correction float64
	curvature  Curvature
	tuning     Tuning
	skip       []*regexp.Regexp // and those to exclude
	include    []*regexp.Regexp
	rules      []Rule
	given      map[string]Rule // to layers that no rule is about
	budget     bool            // bits are shared out
	fit        Fit
	tooLarge   map[string]error                                 // layers to leave dense, found in their weights
	mix        func(layout.Layer) (quant.Scheme, string, error) // of a format that chooses the grids; else nil
	bf16       bool
	channels   bool
	workers    int

	told told.List
}

// resolve decides everything that does not depend on the model. It looks at
// no file. Values are not checked; see Options.Validate.
func (o *Options) resolve() (*settings, error) {
	s := &settings{target: o.Target, skip: slices.Concat(o.Skip, o.Exclude), include: o.Include, rules: o.Rules, budget: o.Budget.Asked(), bf16: o.BF16, channels: o.Channels, workers: o.Workers}
	preset := Best
	from := "default"
	if o.Method != nil {
		preset, from = Plain, "a method is given"
	}
	s.preset = told.Pick(&s.told, "preset", told.Given(o.Preset), told.Otherwise(preset, from))
	if err := o.resolveScheme(s); err != nil {
		return nil, err
	}
	if err := o.resolveMethod(s); err != nil {
		return nil, err
	}
	return s, o.resolveArms(s)
}

const (
	defaultBits      = 4
	defaultGroupSize = 128
)

// resolveScheme decides the format and the grid.
func (o *Options) resolveScheme(s *settings) error {
	b, by := s.preset.base(), "preset "+s.preset.String()
	var t checkpoint.Target
	var target string
	targeted := o.Target != ""
	if targeted {
		var err error
		if t, err = fitting.Target(o.Target, o.Format, o.Bits, o.GroupSize, o.Symmetric); err != nil {
			return badOptions("%w", err)
		}
		target = "target " + told.Pick(&s.told, "target", told.Given(o.Target))
	}
	var err error
	switch {
	case o.Format != nil:
		s.format = o.Format
		told.Pick(&s.told, "format", told.Given(o.Format.Name()))
	case targeted:
		if s.format, err = checkpoint.Lookup(told.Pick(&s.told, "format", told.Otherwise(t.Format, target))); err != nil {
			return err
		}
	default:
		s.format = native.Format{}
		told.Pick(&s.told, "format", told.Otherwise(s.format.Name(), "default"))
	}
	g := &s.scheme
	plain := o.GroupSize == 0 && o.Symmetric == nil && o.ScaleType == nil && o.Range == 0 && o.MinZero == 0
	var main quant.Scheme
	var from string
	if s.format, main, from, err = fitting.Mixed(s.format, o.Method, o.Bits, plain); err != nil {
		return badOptions("%w", err)
	}
	mixed := main.Grid != nil
	g.Bits = told.Pick(&s.told, "bits", told.Given(o.Bits), told.If(mixed, main.Bits, from), told.If(targeted, t.Scheme.Bits, target), told.Otherwise(defaultBits, "default"))
	g.GroupSize = told.Pick(&s.told, "group_size", told.If(mixed, main.GroupSize, from), told.Given(o.GroupSize), told.If(targeted, t.Scheme.GroupSize, target), told.Otherwise(layout.GroupSize(s.format, defaultGroupSize), "default"))
	g.Symmetric = told.Pick(&s.told, "symmetric", told.If(mixed, false, from), told.Pointed(o.Symmetric), told.If(targeted, t.Scheme.Symmetric, target), told.Otherwise(false, "default"))
	g.Grid = main.Grid
	g.Range = told.Pick(&s.told, "range", told.Given(o.Range), told.Otherwise(quant.RangeZero, "default"))
	g.ScaleType = told.Pick(&s.told, "scale_type", told.Pointed(o.ScaleType), told.Otherwise(quant.F16, "default"))
	// Readers of gptq_v1 disagree on what a zero-point of 0 is stored as.
	v1 := s.format.Name() == autogptq.Format{Version: 1}.Name() && !g.Symmetric
	g.MinZero = told.Pick(&s.told, "min_zero", told.Given(o.MinZero), told.If(v1, 1, "format "+s.format.Name()), told.Otherwise(0, "default"))
	asked := o.ClipInput != nil && *o.ClipInput
	if asked && o.Clip != nil && !*o.Clip {
		return badOptions("clip by inputs without clip")
	}
	g.Clip = told.Pick(&s.told, "clip", told.Pointed(o.Clip), told.If(asked, true, "clip_input is given"), told.If(o.unseen(), true, weighed), told.Otherwise(b.clip, by))
	g.ClipInput = told.Pick(&s.told, "clip_input", told.Pointed(o.ClipInput), told.If(!g.Clip, false, "there is no clip"), told.If(o.unseen(), true, weighed), told.Otherwise(b.clipInput, by))
	return nil
}

// resolveMethod decides what quantizes a layer, and on which inputs.
func (o *Options) resolveMethod(s *settings) error {
	b, by := s.preset.base(), "preset "+s.preset.String()
	from := "given"
	s.method = o.Method
	if o.Method != nil {
		if o.GPTQ != (GPTQ{}) {
			return badOptions("parameters of GPTQ are given beside method %T: set them in the method", o.Method)
		}
		if o.Workers > 0 {
			s.method = quant.WithWorkers(o.Method, o.Workers)
		}
	} else {
		from = by
		g := gptq.Quantizer{Refine: b.refine, Workers: o.Workers}
		if d := o.GPTQ.Damping; d != 0 {
			if !(d > 0 && d < 1) {
				return badOptions("damping %g, want a fraction between 0 and 1", d)
			}
			g.Damping = d
		}
		if o.GPTQ.Order != nil {
			g.Order = *o.GPTQ.Order
		}
		if o.GPTQ.Refine != nil {
			g.Refine = *o.GPTQ.Refine
		}
		if o.GPTQ != (GPTQ{}) {
			from += ", with parameters given"
		}
		s.method = g
	}
	if _, own := s.method.(quant.Schemer); own && o.Tuning.What != TuneOff {
		return badOptions("tuning %s: method %T has grids or sums of its own, which are not tuned", o.Tuning.What, s.method)
	}
	if _, err := quant.SchemeOf(s.method, s.scheme); err != nil {
		return badOptions("%w", err)
	}
	m, err := quant.Parameters(s.method)
	if err != nil {
		return badOptions("%w", err)
	}
	told.Pick(&s.told, "method", told.Otherwise(m.Type, from))
	told.Pick(&s.told, "parameters", told.Otherwise(m.Parameters, from))
	strength := 0.0
	if o.Correction != nil {
		strength = *o.Correction
	}
	if math.IsNaN(strength) {
		return badOptions("correction %g, want 0 to 1", strength)
	}
	s.inputs = told.Pick(&s.told, "inputs", told.Given(o.Inputs), told.If(strength > 0, InputsQuantized, "a correction is given"), told.If(o.unseen(), InputsFull, weighed),
		told.If(s.preset == Plain && !quant.NeedsCalibration(s.method), InputsFull, by+", the method needs no data"), told.Otherwise(b.inputs, by))
	s.correction = told.Pick(&s.told, "correction", told.Pointed(o.Correction), told.If(s.inputs == InputsFull, 0.0, "inputs full"), told.Otherwise(b.correction, by))
	return nil
}

// resolveArms decides what is chosen from, and how.
func (o *Options) resolveArms(s *settings) error {
	b, by := s.preset.base(), "preset "+s.preset.String()
	axis := AxisOC
	if o.Target != "" {
		t, err := checkpoint.TargetFor(o.Target)
		if err != nil {
			return badOptions("%w", err)
		}
		if t.Scheme.Axis == quant.IC {
			axis = AxisIC
		}
	}
	_, gridded := quant.OwnScheme(o.Method)
	s.axis = told.Pick(&s.told, "axis", told.Given(o.Axis), told.If(o.Target != "", axis, "target "+o.Target), told.If(gridded && len(o.Arms) == 0, AxisOC, "method"), told.Otherwise(AxisAda, "default"))
	all, from := b.arms, by
	if len(o.Arms) > 0 {
		all, from = o.Arms, "given"
	}
	if s.axis != AxisAda {
		from += ", of axis " + s.axis.String()
	}
	s.arms = told.Pick(&s.told, "arms", told.Otherwise(armsAlong(s.axis, all), from))
	if len(s.arms) == 0 {
		return badOptions("arms %s: none of axis %s", Setting{Value: all}.Text(), s.axis)
	}
	weighs := b.curvature && o.Method == nil && !o.unseen() && (o.Objective == nil || *o.Objective == adadim.ObjectiveCurvature)
	s.curvature = told.Pick(&s.told, "curvature", told.Given(o.Curvature), told.If(weighs, CurvatureOn, by), told.Otherwise(CurvatureOff, "default"))
	if s.tuning = o.Tuning; s.tuning.What != TuneOff {
		if s.tuning.Steps == 0 {
			s.tuning.Steps = map[Tune]int{TuneScales: 100, TuneCodes: 200}[s.tuning.What]
		}
		told.Pick(&s.told, "tune", told.Otherwise(s.tuning.What, "given"))
		told.Pick(&s.told, "tune_steps", told.Given(o.Tuning.Steps), told.Otherwise(s.tuning.Steps, "default"))
		told.Pick(&s.told, "tune_tokens", told.Given(o.Tuning.Tokens), told.Otherwise(0, "all of the text"))
	}
	s.objective = told.Pick(&s.told, "objective", told.Pointed(o.Objective),
		told.If(s.curvature == CurvatureOn, adadim.ObjectiveCurvature, "curvature on"), told.Otherwise(b.objective, by))
	s.search = told.Pick(&s.told, "search", told.Pointed(o.Search), told.Otherwise(b.search, by))
	s.countBits = told.Pick(&s.told, "count_bits", told.Pointed(o.CountBits), told.Otherwise(b.countBits, by))
	ours, scaled := slices.ContainsFunc(b.arms, adadim.Arm.Scaled), slices.ContainsFunc(s.arms, adadim.Arm.Scaled)
	s.fold = told.Pick(&s.told, "fold", told.Given(o.Fold), told.If(o.unseen(), FoldOff, weighed),
		told.If(s.axis == AxisOC && s.preset != Plain && (ours || scaled), FoldOn, by+" in axis oc"),
		told.If(ours && !scaled, FoldOn, by+", no arm has scales"), told.Otherwise(FoldAuto, "default"))
	asked := len(o.Arms) > 0 || o.Axis == AxisAda
	s.fit = told.Pick(&s.told, "fit", told.Given(o.Fit), told.If(asked, FitOff, "arms are given"), told.Otherwise(FitArms, "default"))
	for _, list := range []struct {
		name     string
		patterns []*regexp.Regexp
	}{{"skip", o.Skip}, {"include", o.Include}, {"exclude", o.Exclude}} {
		if len(list.patterns) > 0 {
			told.Pick(&s.told, list.name, told.Otherwise(list.patterns, "given"))
		}
	}
	if len(o.Rules) > 0 {
		told.Pick(&s.told, "rules", told.Otherwise(o.Rules, "given"))
	}
	if s.budget {
		told.Pick(&s.told, "budget", told.Otherwise(o.Budget.String(), "given"))
	}
	told.Pick(&s.told, "bf16", told.Given(o.BF16), told.Otherwise(false, "default"))
	return nil
}

// runSettings are the settings that say how much text is read and how the
// result is written.
func (o *Options) runSettings(cfg *decoder.Model) []Setting {
	var run told.List
	c := o.Calibration
	told.Pick(&run, "samples", told.Given(c.Samples), told.Otherwise(defaultSamples, "default"))
	if cfg != nil {
		told.Pick(&run, "seq_len", told.Given(c.SeqLen), told.Otherwise(contextLength(cfg, 0), "default: up to the model's context"))
	}
	told.Pick(&run, "per_document", told.Given(c.PerDocument), told.Otherwise(false, "default"))
	told.Tell(&run, "bos", told.Pointed(c.BOS))
	told.Tell(&run, "importance_matrix", told.Given(o.Importance))
	told.Tell(&run, "max_shard_bytes", told.Given(o.MaxShardBytes))
	told.Tell(&run, "workers", told.Given(o.Workers))
	return run
}

// noCurvature does without the curvature that a preset would have, for a reason.
func (s *settings) noCurvature(from string) {
	s.curvature = CurvatureOff
	s.told.Again("curvature", s.curvature, from)
	if s.objective == adadim.ObjectiveCurvature {
		s.objective = s.preset.base().objective
		s.told.Again("objective", s.objective, from)
	}
}

// setGroupSize changes the group size, for a reason.
func (s *settings) setGroupSize(n int, from string) {
	s.scheme.GroupSize = n
	s.told.Again("group_size", n, from)
}

// setScaleType changes the type of scales, for a reason.
func (s *settings) setScaleType(t quant.ScaleType, from string) {
	s.scheme.ScaleType = t
	s.told.Again("scale_type", t, from)
}

// of returns what quantizes a layer that is planned so.
func (s *settings) of(p *fitting.Layer) adadim.Quantizer {
	q := s.chooser(p.Arms)
	switch p.Method {
	case "rtn":
		q.Method = quant.RTN{Workers: s.workers}
	case "gptq":
		if _, already := q.Method.(gptq.Quantizer); !already {
			q.Method = gptq.Quantizer{Workers: s.workers}
		}
	}
	return q
}

// chooser returns AdaDim over the method for the given arms.
func (s *settings) chooser(arms []adadim.Arm) adadim.Quantizer {
	return adadim.Quantizer{Method: s.method, Arms: arms, Objective: s.objective, Search: s.search, CountBits: s.countBits, Workers: s.workers}
}
