package lowbit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/picture"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/ranges"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/told"
	"github.com/golowbit/lowbit/internal/version"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Quantize makes a quantized model, as Resolve says for these options.
//
// With Resume, an output that the interrupted run had completed is reported as
// far as the output tells.
//
// If ctx is cancelled it returns within about a second; finished layers stay
// in the folder Output+".partial", and a later call with Resume goes on from
// there. The output appears under its name only when it is complete.
func Quantize(ctx context.Context, o Options) (*Report, error) {
	ctx, clock := phases.With(ctx)
	tooLarge := map[string]error{}
	for {
		r, err := quantizeOnce(ctx, &o, tooLarge)
		var e *ranges.Error
		if errors.As(err, &e) && tooLarge[e.Layer] == nil && o.Part.Alone() {
			tooLarge[e.Layer] = e.Err
			continue
		}
		if err != nil {
			return nil, err
		}
		r.Phases, r.PeakMemory = clock.Phases(), memory.Peak()
		r.Seconds = phases.Sum(r.Phases) - clock.Seconds(phases.Evaluation)
		return r, nil
	}
}

// quantizeOnce does it with layers left dense that are too large for any grid.
// Without text these are found on the way: the error is a *ranges.Error then, and
// nothing is kept.
func quantizeOnce(ctx context.Context, o *Options, tooLarge map[string]error) (*Report, error) {
	j, err := newJob(*o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err = j.leaveDense(*o, tooLarge); err == nil {
		err = j.prepare(ctx, o)
	}
	if err == nil {
		err = j.ended(j.run(ctx))
	}
	if errors.Is(err, checkpoint.ErrComplete) {
		err = j.complete(ctx)
	}
	var e *ranges.Error
	if errors.As(err, &e) && j.out != nil {
		return nil, errors.Join(err, j.out.Discard())
	}
	if err != nil {
		return nil, err
	}
	return j.report(), nil
}

// job is one call of Quantize: the settings, the model, and how far it is.
type job struct {
	set    *settings
	more   told.List // of the run
	path   string    // of the model
	output string
	src    *checkpoint.Model
	model  *decoder.Model // nil if layers are found by name and shape
	refuse error          // then why no decoder runs the model
	parts  []checkpoint.Part
	layers *checkpoint.Model          // src with the parts as tensors of their own
	places map[string]checkpoint.Part // where layers lie that are no such tensors
	unused *regexp.Regexp             // of what is to be included: nothing is named like it
	plan   *fitting.Plan              // its blocks and places for scales are the model's blocks and stages
	fitted []string                   // what was changed for the model as a whole
	half   bool                       // engines compute a bfloat16 model in half floats afterwards
	folded map[string]string          // by layer: the scale of its input that was folded

	importance     *ggufmodel.Importance // what stands in for text; nil if nothing does
	saveImportance func() error          // nil if none is to be saved

	texted   bool             // calibration text is given
	foreseen bool             // and nothing else
	text     *calibrationText // nil if no text is needed
	tokens   int
	out      *checkpoint.Writer
	events   func(Event)
	done     map[string]*LayerReport
	made     map[string]layout.Layer // layers as they came out
	kept     int                     // layers that would be found by Resume
	memory   *memory.Plan
	writers  int   // workers that put the result together
	before   int64 // bytes of the source's files of weights

	eval       *EvalOptions // what the result is measured with, nil if it is not
	windows    [][]int32    // on which text
	evaluation *Evaluation
	tuned      *Tuned
	allocated  *Allocation

	team   Part
	others map[string]int // the layers of other parts, and whose they are
	parted *Parted
}

// openModel opens a model, or the LoRA adapter at path merged into the model
// at base.
func openModel(path, base string) (*checkpoint.Model, error) {
	if base != "" && !checkpoint.IsAdapter(path) {
		return nil, fmt.Errorf("%w: base %s given, and %s is no LoRA adapter", ErrOptions, base, path)
	}
	return checkpoint.OpenMerged(path, base)
}

// newJob decides everything that can be known before text is read.
func newJob(o Options) (*job, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	set, err := o.resolve()
	if err != nil {
		return nil, err
	}
	j := &job{
		set: set, path: o.Model, output: o.Output, texted: o.Calibration.given(), events: o.Events,
		folded: map[string]string{}, done: map[string]*LayerReport{}, made: map[string]layout.Layer{},
	}
	if j.src, err = openModel(o.Model, o.Base); err != nil {
		return nil, err
	}
	if err = j.openModel(o); err == nil {
		err = cmp.Or(j.openImportance(o), j.checkReversible(o.Curvature), j.planModel(o))
	}
	if err == nil {
		err = cmp.Or(j.splitLayers(), j.checkPart(o))
	}
	if err != nil {
		j.close()
		return nil, err
	}
	j.more = o.runSettings(j.model)
	return j, nil
}

// openModel reads the model's headers.
func (j *job) openModel(o Options) error {
	var err error
	if j.src, err = j.src.Plain(); err != nil {
		return err
	}
	if j.model, err = arch.Open(j.src); err == nil {
		return nil
	}
	return j.withoutDecoder(o, err)
}

// keepBF16 takes bfloat16 scales where nothing else is asked for and half floats
// would make half floats of all that a bfloat16 model computes. Experts are an
// exception: transformers puts their weights together in the type of the scales,
// and bfloat16 rounds those.
func (j *job) keepBF16(o Options) error {
	config := j.src.Config()
	j.half = j.plan.MakesHalf(config)
	if o.ScaleType != nil || !j.half || j.hasExperts() {
		return nil
	}
	was := j.set.scheme.ScaleType
	j.set.setScaleType(quant.BF16, "the model is bfloat16 and stays so")
	if j.planLayers() == nil && !j.plan.MakesHalf(config) {
		j.half = false
		return nil
	}
	j.set.setScaleType(was, "default")
	return j.planLayers()
}

func (j *job) hasExperts() bool {
	return j.model != nil && slices.ContainsFunc(j.model.Blocks, func(b *program.Program) bool {
		return slices.ContainsFunc(b.Stages, func(s program.Stage) bool { return s.Expert >= 0 })
	})
}

// largestGroup is what stands for whole rows as long as no layer's width is
// asked for.
const largestGroup = 2048

// planModel plans the layers.
func (j *job) planModel(o Options) error {
	if err := j.fitModel(o); err != nil {
		return err
	}
	return j.keepBF16(o)
}

// fitModel plans the layers. For a target whose group size does not suit
// the model, and where none was asked for, it takes the largest that does.
func (j *job) fitModel(o Options) error {
	if f, ok := j.set.format.(layout.File); ok {
		if err := f.CheckModel(j.src); err != nil {
			return fmt.Errorf("%s: format %s: %w", j.path, f.Name(), err)
		}
	}
	if m, ok := j.set.format.(layout.Mixer); ok {
		var err error
		if j.set.mix, err = m.Mix(j.src, j.texted || j.importance != nil || quant.NeedsCalibration(j.set.method)); err != nil {
			return fmt.Errorf("%s: format %s: %w", j.path, j.set.format.Name(), err)
		}
	}
	err := j.planLayers()
	if err == nil || errors.Is(err, ErrOptions) || j.set.mix != nil {
		return err
	}
	var why string
	switch {
	case j.set.fit == FitOn:
		why = fmt.Sprintf("fit: the largest that format %s and every layer take", j.set.format.Name())
	case o.Target != "" && o.GroupSize == 0:
		why = fmt.Sprintf("the largest that target %s takes for every layer", o.Target)
	default:
		return err
	}
	was := j.set.scheme.GroupSize
	for g := range fitting.SmallerGroups(was, largestGroup) {
		j.set.setGroupSize(g, why)
		if j.planLayers() == nil {
			j.fitted = append(j.fitted, fmt.Sprintf("groups of %d instead of %d: %s", g, was, why))
			return nil
		}
	}
	if o.Target != "" && o.GroupSize == 0 {
		const why = "no groups divide the inputs of every layer"
		j.set.setGroupSize(quant.WholeLine, why)
		if j.planLayers() == nil {
			j.fitted = append(j.fitted, fmt.Sprintf("whole rows instead of groups of %d: %s", was, why))
			return nil
		}
	}
	return err
}

// prepare reads the text and opens the output.
func (j *job) prepare(ctx context.Context, o *Options) error {
	var err error
	if j.before, err = checkpoint.WeightBytes(j.path); err != nil {
		return err
	}
	if err := phases.In(ctx, phases.Text, func() error { return j.readText(ctx, o) }); err != nil {
		return err
	}
	if err := j.allocate(ctx, o); err != nil {
		return err
	}
	if !j.direct() || len(j.set.tooLarge) > 0 { // where there is one there may be more
		tooLarge, err := j.checkRanges(ctx)
		if err == nil {
			err = j.leaveDense(*o, tooLarge)
		}
		if err != nil {
			return err
		}
	}
	w, err := j.writerOptions(ctx, o)
	if err != nil {
		return err
	}
	w.Ready = j.ready
	j.out, err = checkpoint.Create(w)
	return err
}

// writerOptions are what the output is opened with, once the text is read.
func (j *job) writerOptions(ctx context.Context, o *Options) (checkpoint.WriterOptions, error) {
	fingerprint, method, err := j.describe(o.MaxShardBytes)
	return checkpoint.WriterOptions{
		Out: j.output, Source: j.layers, Parts: j.parts, Format: j.set.format, Layers: j.plan.Quantized(), Direct: j.direct(), Resume: o.Resume,
		Fingerprint: fingerprint, Hash: !j.direct(), Method: method, MaxShardBytes: o.MaxShardBytes, Workers: j.writers,
		Team: j.team, Waiting: func(text string) { j.event(Event{Kind: EventWait, Message: text}) }, Context: ctx,
		Progress: func(done, total int64) {
			j.event(Event{Kind: EventWrite, Done: int(done), Total: int(total)})
		},
		Scratch: j.memory.InFile,
		Warn:    func(text string) { j.event(Event{Kind: EventWarning, Message: text}) },
	}, err
}

// readText reads the text, and divides the memory.
func (j *job) readText(ctx context.Context, o *Options) (err error) {
	needed := j.mustHaveText()
	if err := j.checkTextless(needed); err != nil {
		return err
	}
	if needed && !j.texted {
		return fmt.Errorf("%w: %w", ErrOptions, ErrNeedsText)
	}
	if needed || j.texted {
		c, err := j.written(ctx, o)
		if err == nil {
			j.text, err = readCalibration(j.src, j.model, c, j.set.tuning, o.Memory)
		}
		if err != nil {
			return err
		}
		j.tokens = j.text.tokens()
	}
	texts := []Text{o.Calibration.Text, o.Evaluation.Text}
	measuring, err := j.readMeasured(o)
	if err != nil {
		return err
	}
	if j.memory, err = j.planMemory(o.Memory); err != nil {
		return err
	}
	if err := j.planTuning(o.Memory); err != nil {
		return err
	}
	if j.set.budget {
		p, err := j.planMeasuring(o.Memory)
		if err != nil {
			return err
		}
		j.memory.Besides("sharing out bits", p.Peak())
	}
	if measuring != nil {
		j.memory.Besides("evaluation", measuring.Peak())
	}
	if o.Calibration.Self != nil {
		j.memory.Besides("writing text", generation.Memory(j.model, len(j.text.windows), j.text.seqLen))
	}
	return j.planMoments(o.Memory, texts)
}

func (j *job) close() {
	if j.out != nil {
		_ = j.out.Close() // after Finish a no-op; before it, the error that led here matters more
	}
	_ = j.src.Close()
}

func (j *job) event(e Event) {
	if j.events != nil {
		j.events(e)
	}
}

// mustHaveText is false only where an importance matrix tells enough, or for methods
// without need of data in arms that leave nothing to choose.
func (j *job) mustHaveText() bool {
	if j.set.curvature == CurvatureOn || j.set.tuning.What != TuneOff || j.set.budget || j.saveImportance != nil {
		return true
	}
	if slices.ContainsFunc(j.plan.Folds, func(folds []bool) bool { return slices.Contains(folds, true) }) {
		return true
	}
	if j.importance != nil {
		return j.set.correction > 0 || j.set.inputs == InputsQuantized || j.set.objective == adadim.ObjectiveBlock
	}
	return quant.NeedsCalibration(j.set.method) || j.chooses()
}

// chooses reports whether any layer has arms to choose from, or scales.
func (j *job) chooses() bool {
	return slices.ContainsFunc(j.plan.Layers, func(p *fitting.Layer) bool {
		return !p.Dense && (p.Method == "gptq" || len(p.Arms) > 1 || p.Arms[0].InputScale || p.Arms[0].RowScale)
	})
}

// direct reports whether layers are rounded piece by piece on their way to
// their final place: what round-to-nearest can do without calibration.
func (j *job) direct() bool {
	_, rounding := j.set.method.(quant.RTN)
	return rounding && j.text == nil && (j.importance == nil || !j.chooses())
}

// describe returns what decides the result, and what formats record of it.
func (j *job) describe(maxShardBytes int64) (fingerprint, method json.RawMessage, err error) {
	info := map[string]any{}
	list := slices.DeleteFunc(slices.Clone(j.set.told), func(s Setting) bool {
		return s.Name == "curvature" && j.set.curvature != CurvatureOn // as before there was any
	})
	for _, s := range list {
		switch s.Name {
		case "target", "format", "preset", "fit", "skip", "axis", "include", "exclude":
			// Not how the codes of a layer are found.
		case "bf16":
			if j.text != nil {
				info[s.Name] = j.set.bf16 && measure.BFloat16(j.model, j.src)
			}
		default:
			info[s.Name] = s.Value
		}
	}
	if j.text != nil {
		info["tokens"], info["seq_len"] = j.tokens, j.text.seqLen
	}
	if j.importance != nil {
		info["importance_matrix"] = j.importance.Digest()
	}
	if method, err = json.Marshal(info); err != nil {
		return nil, nil, err
	}
	// The writer compares the source's files itself, whatever their path.
	for _, s := range list {
		if s.Name != "preset" && s.Name != "bf16" { // what it means is told beside it
			info[s.Name] = s.Value
		}
	}
	info["fit"], info["skip"] = j.set.fit, fmt.Sprint(j.set.skip)
	if len(j.set.include) > 0 {
		info["include"] = fmt.Sprint(j.set.include)
	}
	info["format"] = fmt.Sprintf("%s %+v", j.set.format.Name(), j.set.format)
	info["max_shard_bytes"], info["squares"] = maxShardBytes, j.saveImportance != nil
	info["version"], info["kernels"] = version.Module(), kernel.Active().String()
	if j.text != nil {
		info["text"] = text.Digest(j.text.windows)
		info["route_all"] = j.text.routeAll
	}
	if j.allocated != nil {
		info["given"] = j.allocated.Given
	}
	if j.set.tuning.What != TuneOff {
		info["tuning_text"] = text.Digest(j.text.tuning)
	}
	fingerprint, err = json.Marshal(info)
	return fingerprint, method, err
}

func (j *job) run(ctx context.Context) error {
	n := 0
	for _, p := range j.plan.Layers {
		if !p.Silent {
			for _, note := range p.Notes {
				j.event(Event{Kind: EventWarning, Name: p.Name, Message: note})
			}
		}
		if !p.Dense {
			n++
		}
		if !p.Dense && j.out.Done(p.Name) {
			j.kept++
		}
	}
	for _, err := range j.out.Damaged() {
		j.event(Event{Kind: EventWarning, Message: err.Error()})
	}
	j.event(Event{Kind: EventPlan, Plan: j.explain(), Blocks: j.blockCount(), Total: n, Kept: j.kept})
	defer j.memory.Hold()()
	var err error
	switch {
	case j.text != nil:
		if err = j.runBlocks(ctx); err == nil {
			err = j.tune(ctx)
		}
		if err == nil {
			err = j.runUncalibrated(ctx, j.plan.Outer())
		}
		if err == nil && j.saveImportance != nil {
			err = j.saveImportance()
		}
	case j.direct():
		err = phases.In(ctx, phases.Rounding, func() error { return j.runDirect(ctx) })
	default:
		err = j.runUncalibrated(ctx, j.plan.Layers)
	}
	if err != nil {
		return err
	}
	return j.end(ctx)
}

// runUncalibrated quantizes layers one by one with a method that needs no data.
func (j *job) runUncalibrated(ctx context.Context, layers []*fitting.Layer) error {
	for _, p := range layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !p.Dense && j.out.Done(p.Name) {
			if _, err := j.resumed(p); err != nil {
				return err
			}
			continue
		}
		if !j.mine(p.Name) {
			continue
		}
		var w *tensor.Matrix
		if !p.Dense {
			reading := phases.Of(ctx).Enter(phases.Reading)
			var err error
			w, err = j.layers.Matrix(p.Name + ".weight")
			if reading(); err != nil {
				return err
			}
		}
		if _, err := j.quantizeLayer(ctx, p, blocks.Task{Weight: w, Target: w, Calibration: j.importance.Calibration(p.Name), Routed: -1}); err != nil {
			return err
		}
	}
	return nil
}

// reportOf is what is known of a layer before it is quantized.
func (j *job) reportOf(p *fitting.Layer) *LayerReport {
	r := &LayerReport{Name: p.Name, Out: p.Out, In: p.In, Dense: p.Dense, Folded: j.folded[p.Name]}
	r.Notes = append(r.Notes, p.Notes...)
	if note := j.importance.Note(p.Name); note != "" && !p.Dense {
		r.Notes = append(r.Notes, note)
	}
	if !p.Dense {
		r.Scheme = p.First().Scheme
		r.Arm = p.Arms[0].String()
	}
	return r
}

// quantizeLayer puts one layer on its grid and hands it to the writer. It returns the
// weight the quantized model will have, or nil if the layer stays dense.
func (j *job) quantizeLayer(ctx context.Context, p *fitting.Layer, t blocks.Task) (*quant.Weight, error) {
	defer phases.Of(ctx).Enter(phases.Solving)()
	start := time.Now()
	r := j.reportOf(p)
	if p.Dense {
		j.finish(r, false)
		return nil, nil
	}
	method, l := j.set.of(p), adadim.Layer{Weight: t.Target, Calibration: t.Calibration, BlockLoss: t.BlockLoss}
	r.Tokens = t.Tokens()
	if unknown := l.Calibration == nil || l.Calibration.Tokens == 0; (unknown || t.Pooled) && (j.text != nil || j.importance != nil) {
		method.Method, method.Arms = quant.RTN{Workers: j.set.workers}, p.Arms[:1]
		if unknown {
			l.Calibration = nil
		}
		if j.text != nil && !p.Outer {
			r.Notes = append(r.Notes, t.Rounded())
		}
	}
	q, d, err := method.Choose(ctx, l, p.Scheme)
	if errors.Is(err, quant.ErrScaleRange) {
		// What the method made of the weights is out of range. They are not
		// themselves: see checkRanges.
		r.Notes = append(r.Notes, fmt.Sprintf("rounded to nearest: %v", err))
		method = adadim.Quantizer{Method: quant.RTN{Workers: j.set.workers}, Arms: p.Arms[:1]}
		q, d, err = method.Choose(ctx, adadim.Layer{Weight: t.Weight}, p.Scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	r.Scheme = q.Scheme
	r.measured(d)
	r.Bits = float64(q.StorageBits()) / float64(p.Out*p.In)
	r.Channels = picture.Of(j.set.channels, t.Weight, t.Target, l.Calibration, q, j.set.workers)
	r.Notes = append(r.Notes, q.Notes...)
	r.Seconds = time.Since(start).Seconds()
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%s: report: %w", p.Name, err)
	}
	if err := phases.In(ctx, phases.Writing, func() error { return j.out.Put(p.Name, q, text) }); err != nil {
		return nil, err
	}
	j.made[p.Name] = p.As(q)
	j.finish(r, true)
	return q, nil
}

// finish records a layer and tells of it. fresh says that it has just been
// put where Resume would find it.
func (j *job) finish(r *LayerReport, fresh bool) {
	if fresh {
		j.kept++
	}
	planned := len(j.plan.Layer(r.Name).Notes) // told before the work
	for _, n := range r.Notes[min(planned, len(r.Notes)):] {
		j.event(Event{Kind: EventWarning, Name: r.Name, Message: n})
	}
	j.done[r.Name] = r
	j.event(Event{Kind: EventLayer, Layer: r, Done: len(j.done), Total: len(j.plan.Layers), Kept: j.kept})
}

// resumed returns a layer that an earlier run has finished.
func (j *job) resumed(p *fitting.Layer) (*quant.Weight, error) {
	q, err := j.out.Weight(p.Name)
	if err != nil {
		return nil, err
	}
	r := &LayerReport{}
	kept := struct {
		*LayerReport
		Scheme json.RawMessage `json:"scheme"` // the weight has it, grid and all
	}{LayerReport: r}
	if err := json.Unmarshal(j.out.Report(p.Name), &kept); err != nil {
		return nil, fmt.Errorf("%s: report of the interrupted run: %w", p.Name, err)
	}
	r.Scheme = q.Scheme
	j.made[p.Name] = p.As(q)
	j.finish(r, false)
	return q, nil
}

// readBack takes what can be known of the layers from the output, which an
// earlier run has completed.
func (j *job) readBack() error {
	m, err := checkpoint.Open(j.output, j.set.format)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, p := range j.plan.Layers {
		r := j.reportOf(p)
		l, ok := m.Layer(p.Name)
		if ok && !p.Dense {
			j.made[p.Name], r.Scheme = l, l.Scheme
			r.Arm = adadim.Arm{Axis: l.Scheme.Axis, RowScale: l.RowScale, InputScale: l.InputScale}.String()
			// Some formats give back another weight than was put in.
			if q, err := m.Weight(p.Name); err == nil {
				r.Bits = float64(q.StorageBits()) / float64(p.Out*p.In)
			}
		}
		j.done[p.Name] = r
	}
	return nil
}

// report sums up. The output is there by now: nothing here is an error.
func (j *job) report() *Report {
	r := &Report{Output: j.output, Format: j.set.format.Name(), Settings: j.settings(), Notes: j.notes(), Tokens: j.tokens, BytesBefore: j.before, Evaluation: j.evaluation, Tuned: j.tuned, Allocation: j.allocated, Part: j.parted}
	r.BytesAfter, _ = checkpoint.WeightBytes(j.output) // 0 where it cannot be known
	var bits, weights float64
	layers := j.plan.Engines()
	for i, p := range j.plan.Layers {
		l := j.done[p.Name]
		if l == nil {
			continue // of another part
		}
		r.Layers = append(r.Layers, *l)
		if !l.Dense {
			bits += l.Bits * float64(l.Out*l.In)
			weights += float64(l.Out * l.In)
			if made, ok := j.made[p.Name]; ok { // a dense output does not tell
				layers[i] = made
			}
		}
	}
	r.BitsPerWeight = bits / max(weights, 1)
	r.Engines = j.engines(layers)
	return r
}
