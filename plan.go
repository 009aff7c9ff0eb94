package lowbit

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Plan is what Quantize does with given options.
type Plan struct {
	Model    string      `json:"model"`
	Output   string      `json:"output"`
	Settings []Setting   `json:"settings"` // everything that was decided, and by whom
	Layers   []LayerPlan `json:"layers"`
	// Notes say what holds for the model as a whole.
	Notes []string `json:"notes,omitempty"`
	// Engines says which engines load the output, as far as that can be known.
	Engines []layout.Note `json:"engines"`
	// Memory is what the run will need, nil before the text is known.
	Memory *MemoryPlan `json:"memory,omitempty"`
	// Seconds is about how long it takes, where it was foreseen.
	Seconds float64 `json:"seconds,omitempty"`
	// NeedsText says that calibration text must be given.
	NeedsText bool `json:"needs_text"`
}

// LayerPlan is what will be done with one linear layer.
type LayerPlan struct {
	Name  string `json:"name"`
	Out   int    `json:"out"`
	In    int    `json:"in"`
	Dense bool   `json:"dense,omitempty"` // left as it is
	// Scheme is the grid. Its axis is that of the first of Arms; with one arm
	// it is certain.
	Scheme quant.Scheme `json:"scheme,omitzero"`
	Arms   []adadim.Arm `json:"arms,omitempty"`   // what is chosen from
	Folded bool         `json:"folded,omitempty"` // a scale of its input is chosen beforehand and folded
	Notes  []string     `json:"notes,omitempty"`  // why it is not as the settings say
}

// Resolve decides everything about a quantization that can be known from the
// options and the headers of the model, and says what it has decided. It fails
// where Quantize would before it reads any text.
func Resolve(o Options) (*Plan, error) {
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	return j.explain(), nil
}

// explain puts the plan into words.
func (j *job) explain() *Plan {
	p := &Plan{
		Model: j.path, Output: j.output, Settings: j.settings(), Notes: j.notes(),
		Memory:  j.memory,
		Engines: j.engines(j.engineLayers()), NeedsText: j.mustHaveText(),
	}
	for _, l := range j.order {
		e := LayerPlan{Name: l.name, Out: l.out, In: l.in, Dense: l.dense, Notes: slices.Clone(l.notes)}
		if !l.dense {
			e.Scheme, e.Arms, e.Folded = l.layer(l.arms[0]).Scheme, slices.Clone(l.arms), l.folds
		}
		p.Layers = append(p.Layers, e)
	}
	return p
}

// settings lists all settings, those of the run last.
func (j *job) settings() []Setting { return slices.Concat(j.set.told, j.more) }

// layerPlan is what will be done with one linear.
type layerPlan struct {
	name    string // without ".weight"
	out, in int
	bias    bool
	dtype   safetensors.DType
	dense   bool
	scheme  quant.Scheme
	arms    []adadim.Arm
	notes   []string
	other   bool   // no linear, by its name
	silent  bool   // notes are no warnings: nobody asked for what was left out
	folds   bool   // a scale of its input is folded
	folded  string // which one, once it is chosen
}

// layer describes the linear quantized by an arm, for formats and engines.
func (p *layerPlan) layer(a adadim.Arm) layout.Layer {
	s := p.scheme
	s.Axis = a.Axis
	s.Strided = s.Strided && a.Axis == quant.IC
	return layout.Layer{
		Name: p.name, Out: p.out, In: p.in, Bias: p.bias, DType: p.dtype,
		Scheme: s, RowScale: a.RowScale, InputScale: a.InputScale,
	}
}

// result describes the linear as it came out.
func (p *layerPlan) result(q *quant.Weight) layout.Layer {
	l := p.layer(adadim.Arm{})
	l.Scheme, l.RowScale, l.InputScale, l.GroupIndex = q.Scheme, q.RowScale != nil, q.InputScale != nil, q.GroupIndex != nil
	return l
}

// plannedLayers describes the layers that will be quantized.
func (j *job) plannedLayers() []layout.Layer {
	layers := make([]layout.Layer, 0, len(j.order))
	for _, p := range j.order {
		if !p.dense {
			layers = append(layers, p.layer(p.arms[0]))
		}
	}
	return layers
}

// engineLayers describes all linears, the dense ones too, for engines.
func (j *job) engineLayers() []layout.Layer {
	layers := make([]layout.Layer, len(j.order))
	for i, p := range j.order {
		if layers[i] = (layout.Layer{Name: p.name, Out: p.out, In: p.in, DType: p.dtype, Dense: true}); !p.dense {
			layers[i] = p.layer(p.arms[0])
		}
	}
	return layers
}

// planLayers plans every linear of the model, and fails where the format
// cannot hold it or the target does not load it.
func (j *job) planLayers() error {
	j.plan, j.order, j.folds = map[string]*layerPlan{}, nil, nil
	j.places = map[string]checkpoint.Part{}
	var bad faults.ByReason
	if j.model != nil {
		j.planBlocks(&bad)
	}
	if j.model == nil || len(j.set.include) > 0 {
		j.planByShape(&bad)
	}
	if err := bad.Err("format " + j.set.format.Name() + " cannot hold this: %s (fit changes such layers to what fits)"); err != nil {
		return err
	}
	if err := j.checkSkip(); err != nil {
		return err
	}
	return j.checkTarget()
}

// planBlocks plans the linears that the decoder knows.
func (j *job) planBlocks(bad *faults.ByReason) {
	for _, b := range j.model.Blocks {
		infos := b.Linears
		layers := make([]layout.Layer, len(infos))
		for i, l := range infos {
			d, _ := j.src.DType(l.WeightName())
			if part, ok := place(j.src, l); ok {
				j.places[l.Name] = part
				d, _ = j.src.DType(part.Weight)
			}
			layers[i] = layout.Layer{Name: l.Name, Out: l.Out, In: l.In, Bias: l.Bias, DType: d}
		}
		k, plans, errs := j.set.planBlock(b, layers)
		j.folds = append(j.folds, k)
		for i, p := range plans {
			if errs[i] != nil {
				bad.Add(infos[i].Name, reason(errs[i]), errs[i])
				continue
			}
			p.folds = k.Of[infos[i].Stage] && !p.dense
			j.add(p)
		}
	}
}

// denseAnyway are linear maps that are never quantized: to skip them is no mistake.
var denseAnyway = []string{"lm_head", "model.embed_tokens"}

// checkSkip refuses expressions that match nothing, and Fit that leaves nothing.
func (j *job) checkSkip() error {
	if len(j.order) == 0 {
		return fmt.Errorf("%s: %w: no linear layer found by name and shape (include takes more)", j.path, errNothing)
	}
	for _, r := range j.set.skip {
		layer := slices.ContainsFunc(j.order, func(p *layerPlan) bool { return r.MatchString(p.name) })
		if !layer && !slices.ContainsFunc(denseAnyway, r.MatchString) {
			return badOptions("nothing to skip: no layer's name matches %q (the first is %s)", r, j.order[0].name)
		}
	}
	if err := j.checkInclude(); err != nil {
		return err
	}
	return j.checkLeft()
}

// errNothing is wrapped where no layer is left to quantize.
var errNothing = errors.New("nothing to quantize")

// checkLeft refuses a model of which nothing would be quantized although nobody
// has asked for that.
func (j *job) checkLeft() error {
	var first *layerPlan
	for _, p := range j.order {
		if !p.dense {
			return nil
		}
		if first == nil && j.set.skips(p.name) == nil {
			first = p
		}
	}
	if first == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: every layer would stay dense; %s: %s", j.path, errNothing, first.name, strings.Join(first.notes, "; "))
}

// checkTarget refuses what the target does not load.
func (j *job) checkTarget() error {
	if j.set.target == "" {
		return nil
	}
	for _, n := range j.engines(j.engineLayers()) {
		if n.Engine == j.set.target && !n.Accepted {
			return fmt.Errorf("%w %v", ErrTarget, n)
		}
	}
	return nil
}

// smallestGroup is the smallest that FitOn changes a group size to; largestGroup
// is what stands for whole rows as long as no layer's width is asked for.
const (
	smallestGroup = 16
	largestGroup  = 2048
)

// planBlock plans the linears of a block and which of their scales are
// folded; errs are by linear.
func (s *settings) planBlock(b *program.Program, layers []layout.Layer) (fold.Stages, []*layerPlan, []error) {
	k := s.folding(b, layers)
	for {
		plans, errs := make([]*layerPlan, len(layers)), make([]error, len(layers))
		again := false
		for i := range layers {
			plans[i], errs[i] = s.planLayer(layers[i], armsLeft(k, i, s.arms))
			if errs[i] == nil && plans[i].dense {
				again = k.Without(i) || again
			}
		}
		if !again {
			return k, plans, errs
		}
	}
}

// newLayerPlan is the plan of a linear with the scheme asked for.
func (s *settings) newLayerPlan(l layout.Layer) *layerPlan {
	return &layerPlan{name: l.Name, out: l.Out, in: l.In, bias: l.Bias, dtype: l.DType, scheme: s.scheme}
}

// planLayer decides what becomes of a linear before any work is done, and
// fails where the format cannot hold it, unless Fit allows a change.
func (s *settings) planLayer(l layout.Layer, arms []adadim.Arm) (*layerPlan, error) {
	p := s.newLayerPlan(l)
	if r := s.skips(l.Name); r != nil {
		p.dense, p.silent = true, true
		p.notes = append(p.notes, fmt.Sprintf("left dense: skip %q", r))
		return p, nil
	}
	if err := s.tooLarge[l.Name]; err != nil {
		p.dense = true
		p.notes = append(p.notes, "left dense: "+err.Error())
		return p, nil
	}
	// Beside a layer that cannot be quantized, scales cannot be folded.
	err := p.admit(s.format, arms, s.fit != FitOff || len(s.tooLarge) > 0)
	if err == nil || s.fit != FitOn {
		p.silent = s.fit != FitOn
		return p, err
	}
	for g := halved(s.scheme.GroupSize, l.In); g >= smallestGroup; g /= 2 {
		p.scheme.GroupSize = g
		if p.admit(s.format, arms, true) == nil {
			p.notes = append(p.notes, fmt.Sprintf("group size %d: %s", g, reason(err)))
			return p, nil
		}
	}
	p.dense, p.scheme = true, s.scheme
	p.notes = append(p.notes, "left dense: "+reason(err))
	return p, nil
}

// skips returns the expression by which a layer is to stay dense, or nil.
func (s *settings) skips(name string) *regexp.Regexp {
	if i := slices.IndexFunc(s.skip, func(r *regexp.Regexp) bool { return r.MatchString(name) }); i >= 0 {
		return s.skip[i]
	}
	return nil
}

// halved is the next group size worth trying: the largest power of two below g.
func halved(g, in int) int {
	if g == quant.WholeLine {
		g = in
	}
	h := 1
	for h*2 < g {
		h *= 2
	}
	return h
}

// admit sets the arms that the format holds for the layer. If some allows
// that, arms the format cannot hold are dropped; otherwise one is an error.
func (p *layerPlan) admit(f layout.Format, arms []adadim.Arm, some bool) error {
	p.arms, p.notes = nil, nil
	p.scheme.Strided = false
	var refused []armError
	strided := false
	for _, a := range arms {
		l := p.layer(a)
		err := check(f, l)
		if err != nil && a.Axis == quant.IC {
			// Some containers hold groups of an input channel only strided.
			l.Scheme.Strided = true
			if check(f, l) == nil {
				strided, err = true, nil
			}
		}
		if err != nil {
			refused = append(refused, armError{a, err})
			continue
		}
		p.arms = append(p.arms, a)
	}
	p.scheme.Strided = strided
	switch {
	case len(refused) == 0:
	case len(p.arms) == 0:
		return plainest(refused).err // a matter of the layer, not of the arms
	case !some:
		return refused[0]
	}
	p.notes = without(refused)
	return nil
}

// plainest is the refusal of the arm that asks for least.
func plainest(refused []armError) armError {
	i := slices.IndexFunc(refused, func(e armError) bool { return e.arm == adadim.Arm{Axis: quant.OC} })
	return refused[max(i, 0)]
}

// without says which arms a layer has to do without, each reason once.
func without(refused []armError) []string {
	var reasons []string
	arms := map[string][]adadim.Arm{}
	for _, e := range refused {
		text := reason(e.err)
		if arms[text] == nil {
			reasons = append(reasons, text)
		}
		arms[text] = append(arms[text], e.arm)
	}
	for i, text := range reasons {
		reasons[i] = fmt.Sprintf("without %s: %s", joined(arms[text]), text)
	}
	return reasons
}

func check(f layout.Format, l layout.Layer) error {
	if err := l.Scheme.CheckShape(l.Out, l.In); err != nil {
		return err
	}
	return f.Check(l)
}

// armError says why a format does not hold an arm.
type armError struct {
	arm adadim.Arm
	err error
}

func (e armError) Error() string { return fmt.Sprintf("arm %v: %v", e.arm, e.err) }
func (e armError) Unwrap() error { return e.err }

// reason is the text of a refusal without what goes without saying.
func reason(err error) string {
	return strings.Replace(err.Error(), layout.ErrUnsupported.Error()+": ", "", 1)
}
