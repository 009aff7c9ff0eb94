package lowbit

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Setting is one option as it is in effect.
type Setting struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
	From  string `json:"from"` // who decided it: "given", "default", "preset best", "target vllm", …
}

// Text returns the value as a flag has it.
func (s Setting) Text() string {
	switch v := s.Value.(type) {
	case []adadim.Arm:
		return joined(v)
	case []string:
		return strings.Join(v, " ")
	case json.RawMessage:
		return string(v)
	}
	return fmt.Sprint(s.Value)
}

func joined[T fmt.Stringer](list []T) string {
	names := make([]string, len(list))
	for i, v := range list {
		names[i] = v.String()
	}
	return strings.Join(names, ",")
}

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
	fit        Fit
	tooLarge   map[string]error                                 // layers to leave dense, found in their weights
	mix        func(layout.Layer) (quant.Scheme, string, error) // of a format that chooses the grids; else nil
	bf16       bool
	workers    int

	told []Setting
}

// candidate is a value that a setting takes if no earlier one is there.
type candidate[T any] struct {
	value T
	there bool
	from  string
}

// given is a value of the options that is there if it is not zero.
func given[T comparable](v T) candidate[T] {
	var zero T
	return candidate[T]{v, v != zero, "given"}
}

// pointed is a value of the options that is there if it is not nil.
func pointed[T any](p *T) candidate[T] {
	c := candidate[T]{there: p != nil, from: "given"}
	if p != nil {
		c.value = *p
	}
	return c
}

func otherwise[T any](v T, from string) candidate[T] { return candidate[T]{v, true, from} }

func provided[T any](there bool, v T, from string) candidate[T] { return candidate[T]{v, there, from} }

// pick takes the first candidate that is there and remembers why.
func pick[T any](s *settings, name string, list ...candidate[T]) T {
	for _, c := range list {
		if c.there {
			s.told = append(s.told, Setting{name, c.value, c.from})
			return c.value
		}
	}
	panic("lowbit: setting " + name + " has no default")
}

// resolve decides everything that does not depend on the model. It looks at
// no file. Values are not checked; see Options.Validate.
func (o *Options) resolve() (*settings, error) {
	s := &settings{target: o.Target, skip: slices.Concat(o.Skip, o.Exclude), include: o.Include, bf16: o.BF16, workers: o.Workers}
	preset := Best
	from := "default"
	if o.Method != nil {
		preset, from = Plain, "a method is given"
	}
	s.preset = pick(s, "preset", given(o.Preset), otherwise(preset, from))
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
		if t, err = o.targetScheme(); err != nil {
			return badOptions("%w", err)
		}
		target = "target " + pick(s, "target", given(o.Target))
	}
	var err error
	switch {
	case o.Format != nil:
		s.format = o.Format
		pick(s, "format", given(o.Format.Name()))
	case targeted:
		if s.format, err = checkpoint.Lookup(pick(s, "format", otherwise(t.Format, target))); err != nil {
			return err
		}
	default:
		s.format = native.Format{}
		pick(s, "format", otherwise(s.format.Name(), "default"))
	}
	g := &s.scheme
	main, from, err := o.mixed(s)
	if err != nil {
		return err
	}
	mixed := main.Grid != nil
	g.Bits = pick(s, "bits", given(o.Bits), provided(mixed, main.Bits, from), provided(targeted, t.Scheme.Bits, target), otherwise(defaultBits, "default"))
	g.GroupSize = pick(s, "group_size", provided(mixed, main.GroupSize, from), given(o.GroupSize), provided(targeted, t.Scheme.GroupSize, target), otherwise(defaultGroupSize, "default"))
	g.Symmetric = pick(s, "symmetric", provided(mixed, false, from), pointed(o.Symmetric), provided(targeted, t.Scheme.Symmetric, target), otherwise(false, "default"))
	g.Grid = main.Grid
	g.Range = pick(s, "range", given(o.Range), otherwise(quant.RangeZero, "default"))
	g.ScaleType = pick(s, "scale_type", pointed(o.ScaleType), otherwise(quant.F16, "default"))
	// Readers of gptq_v1 disagree on what a zero-point of 0 is stored as.
	v1 := s.format.Name() == autogptq.Format{Version: 1}.Name() && !g.Symmetric
	g.MinZero = pick(s, "min_zero", given(o.MinZero), provided(v1, 1, "format "+s.format.Name()), otherwise(0, "default"))
	asked := o.ClipInput != nil && *o.ClipInput
	if asked && o.Clip != nil && !*o.Clip {
		return badOptions("clip by inputs without clip")
	}
	g.Clip = pick(s, "clip", pointed(o.Clip), provided(asked, true, "clip_input is given"), otherwise(b.clip, by))
	g.ClipInput = pick(s, "clip_input", pointed(o.ClipInput), provided(!g.Clip, false, "there is no clip"), otherwise(b.clipInput, by))
	return nil
}

// mixed is the scheme of most layers where the format chooses the grids, and who
// decided that; without a grid if it does not. Format gguf in 2 or 3 bits is one
// of Q2_K or Q3_K where nothing asks for groups of another kind: its plain types
// have no fewer than 4 bits.
func (o *Options) mixed(s *settings) (quant.Scheme, string, error) {
	plain := o.GroupSize == 0 && o.Symmetric == nil && o.ScaleType == nil && o.Range == 0 && o.MinZero == 0
	by := "format " + s.format.Name()
	if f, ok := s.format.(ggufmodel.Format); ok && f.Type == "" && plain && (o.Bits == 2 || o.Bits == 3) {
		f.Type, f.Pure = map[int]string{2: "Q2_K", 3: "Q3_K_S"}[o.Bits], true
		if f.Dense == "" && !f.Q8Embeddings {
			f.Dense = safetensors.F16
		}
		s.format = f
		by += fmt.Sprintf(" in %d bits", o.Bits)
	}
	m, ok := s.format.(layout.Mixer)
	if !ok {
		return quant.Scheme{}, "", nil
	}
	main, ok := m.Main()
	switch {
	case !ok:
		return quant.Scheme{}, "", nil
	case !plain:
		return main, by, badOptions("format %s chooses the grid of each layer: group size, symmetry, range, scale type and least zero-point go with plain types only", s.format.Name())
	case o.Bits != 0 && o.Bits != main.Bits:
		return main, by, badOptions("%d bits are given beside a type of %d in format %s", o.Bits, main.Bits, s.format.Name())
	}
	return main, by, nil
}

// targetScheme is the first of the target's formats and schemes that the engine
// loads with the bits and the grid that are given, and in the format given.
func (o *Options) targetScheme() (checkpoint.Target, error) {
	all, err := checkpoint.TargetsFor(o.Target)
	if err != nil {
		return checkpoint.Target{}, err
	}
	for _, t := range all {
		l := layout.Layer{Out: 1024, In: 1024, Scheme: t.Scheme}
		l.Scheme.Bits = cmp.Or(o.Bits, l.Scheme.Bits)
		l.Scheme.GroupSize = cmp.Or(o.GroupSize, l.Scheme.GroupSize)
		if o.Symmetric != nil {
			l.Scheme.Symmetric = *o.Symmetric
		}
		f := o.Format
		if f == nil {
			if f, err = checkpoint.Lookup(t.Format); err != nil {
				return t, err
			}
		} else if f.Name() != t.Format {
			continue
		}
		loads := func(n layout.Note) bool { return n.Engine == o.Target && n.Accepted }
		if f.Check(l) == nil && slices.ContainsFunc(checkpoint.Engines(f, []layout.Layer{l}), loads) {
			return t, nil
		}
	}
	return all[0], nil
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
	m, err := quant.Parameters(s.method)
	if err != nil {
		return badOptions("%w", err)
	}
	pick(s, "method", otherwise(m.Type, from))
	pick(s, "parameters", otherwise(m.Parameters, from))
	strength := 0.0
	if o.Correction != nil {
		strength = *o.Correction
	}
	if math.IsNaN(strength) {
		return badOptions("correction %g, want 0 to 1", strength)
	}
	s.inputs = pick(s, "inputs", given(o.Inputs), provided(strength > 0, InputsQuantized, "a correction is given"),
		provided(s.preset == Plain && !quant.NeedsCalibration(s.method), InputsFull, by+", the method needs no data"), otherwise(b.inputs, by))
	s.correction = pick(s, "correction", pointed(o.Correction), provided(s.inputs == InputsFull, 0.0, "inputs full"), otherwise(b.correction, by))
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
	s.axis = pick(s, "axis", given(o.Axis), provided(o.Target != "", axis, "target "+o.Target), otherwise(AxisAda, "default"))
	all, from := b.arms, by
	if len(o.Arms) > 0 {
		all, from = o.Arms, "given"
	}
	if s.axis != AxisAda {
		from += ", of axis " + s.axis.String()
	}
	s.arms = pick(s, "arms", otherwise(s.axis.of(all), from))
	if len(s.arms) == 0 {
		return badOptions("arms %s: none of axis %s", joined(all), s.axis)
	}
	s.curvature = pick(s, "curvature", given(o.Curvature), otherwise(CurvatureOff, "default"))
	if s.tuning = o.Tuning; s.tuning.What != TuneOff {
		if s.tuning.Steps == 0 {
			s.tuning.Steps = map[Tune]int{TuneScales: 100, TuneCodes: 200}[s.tuning.What]
		}
		pick(s, "tune", otherwise(s.tuning.What, "given"))
		pick(s, "tune_steps", given(o.Tuning.Steps), otherwise(s.tuning.Steps, "default"))
		pick(s, "tune_tokens", given(o.Tuning.Tokens), otherwise(0, "all of the text"))
	}
	s.objective = pick(s, "objective", pointed(o.Objective),
		provided(s.curvature == CurvatureOn, adadim.ObjectiveCurvature, "curvature on"), otherwise(b.objective, by))
	s.search = pick(s, "search", pointed(o.Search), otherwise(b.search, by))
	s.countBits = pick(s, "count_bits", pointed(o.CountBits), otherwise(b.countBits, by))
	s.fold = pick(s, "fold", given(o.Fold),
		provided(s.axis == AxisOC && s.preset != Plain, FoldOn, by+" in axis oc"), otherwise(FoldAuto, "default"))
	asked := len(o.Arms) > 0 || o.Axis == AxisAda
	s.fit = pick(s, "fit", given(o.Fit), provided(asked, FitOff, "arms are given"), otherwise(FitArms, "default"))
	for _, list := range []struct {
		name     string
		patterns []*regexp.Regexp
	}{{"skip", o.Skip}, {"include", o.Include}, {"exclude", o.Exclude}} {
		if len(list.patterns) > 0 {
			pick(s, list.name, otherwise(texts(list.patterns), "given"))
		}
	}
	pick(s, "bf16", given(o.BF16), otherwise(false, "default"))
	return nil
}

// texts are the expressions as they were given.
func texts(patterns []*regexp.Regexp) []string {
	list := make([]string, len(patterns))
	for i, r := range patterns {
		if r != nil {
			list[i] = r.String()
		}
	}
	return list
}

// runSettings are the settings that say how much text is read and how the
// result is written.
func (o *Options) runSettings(cfg *decoder.Model) []Setting {
	run := &settings{}
	c := o.Calibration
	pick(run, "samples", given(c.Samples), otherwise(defaultSamples, "default"))
	if cfg != nil {
		pick(run, "seq_len", given(c.SeqLen), otherwise(contextLength(cfg, 0), "default: up to the model's context"))
	}
	pick(run, "per_document", given(c.PerDocument), otherwise(false, "default"))
	if c.BOS != nil {
		pick(run, "bos", pointed(c.BOS))
	}
	if o.MaxShardBytes > 0 {
		pick(run, "max_shard_bytes", given(o.MaxShardBytes))
	}
	if o.Workers > 0 {
		pick(run, "workers", given(o.Workers))
	}
	return run.told
}

// setGroupSize changes the group size, for a reason.
func (s *settings) setGroupSize(n int, from string) {
	s.scheme.GroupSize = n
	s.retell("group_size", n, from)
}

// setScaleType changes the type of scales, for a reason.
func (s *settings) setScaleType(t quant.ScaleType, from string) {
	s.scheme.ScaleType = t
	s.retell("scale_type", t, from)
}

// retell replaces what is told of a setting.
func (s *settings) retell(name string, value any, from string) {
	for i := range s.told {
		if s.told[i].Name == name {
			s.told[i] = Setting{name, value, from}
		}
	}
}

// chooser returns AdaDim over the method for the given arms.
func (s *settings) chooser(arms []adadim.Arm) adadim.Quantizer {
	return adadim.Quantizer{Method: s.method, Arms: arms, Objective: s.objective, Search: s.search, CountBits: s.countBits, Workers: s.workers}
}
