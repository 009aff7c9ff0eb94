package lowbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Quantize makes a quantized model, as Resolve says for these options.
//
// If ctx is cancelled it returns within about a second; finished layers stay
// in the folder Output+".partial", and a later call with Resume goes on from
// there. The output appears under its name only when it is complete.
func Quantize(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.prepare(o); err != nil {
		return nil, err
	}
	if err := j.run(ctx); err != nil {
		return nil, err
	}
	r, err := j.report()
	if err != nil {
		return nil, err
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// job is one call of Quantize: the settings, the model, and how far it is.
type job struct {
	set    *settings
	more   []Setting // of the run
	path   string    // of the model
	output string
	src    *checkpoint.Model
	model  *decoder.Model
	plan   map[string]*layerPlan // by layer name
	order  []*layerPlan
	folds  []folding // by block

	texted bool             // calibration text is given
	text   *calibrationText // nil if no text is needed
	tokens int
	out    *checkpoint.Writer
	events func(Event)
	done   map[string]*LayerReport
	made   map[string]layout.Layer // layers as they came out
	kept   int                     // layers that would be found by Resume
}

// openModel opens a model, or the LoRA adapter at path merged into the model
// at base.
func openModel(path, base string) (*checkpoint.Model, error) {
	if base == "" {
		return checkpoint.Open(path)
	}
	if !checkpoint.IsAdapter(path) {
		return nil, fmt.Errorf("%w: base %s given, and %s is no LoRA adapter", ErrOptions, base, path)
	}
	return checkpoint.OpenAdapter(path, base)
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
		done: map[string]*LayerReport{}, made: map[string]layout.Layer{},
	}
	if j.src, err = openModel(o.Model, o.Base); err != nil {
		return nil, err
	}
	if err := j.openModel(); err != nil {
		j.close()
		return nil, err
	}
	if err := j.planModel(o); err != nil {
		j.close()
		return nil, err
	}
	j.more = o.runSettings(j.model)
	return j, nil
}

// openModel reads the model's headers.
func (j *job) openModel() error {
	if len(j.src.Quantized()) > 0 {
		return fmt.Errorf("%s: the model is quantized already (%s); what was converted to format dense can be quantized again", j.path, j.src.Format().Name())
	}
	var err error
	if j.model, err = decoderOf(j.src); err != nil {
		return err
	}
	return nil
}

// planModel plans the layers. For a target whose group size does not suit
// the model, and where none was asked for, it takes the largest that does.
func (j *job) planModel(o Options) error {
	if f, ok := j.set.format.(layout.File); ok {
		if err := f.CheckModel(j.src); err != nil {
			return fmt.Errorf("%s: format %s: %w", j.path, f.Name(), err)
		}
	}
	err := j.planLayers()
	if err == nil || o.Target == "" || o.GroupSize != 0 || errors.Is(err, ErrOptions) {
		return err
	}
	was := j.set.scheme.GroupSize
	for g := was / 2; g >= smallestGroup; g /= 2 {
		j.set.setGroupSize(g, fmt.Sprintf("the largest that target %s takes for every layer", o.Target))
		if j.planLayers() == nil {
			return nil
		}
	}
	return err
}

// prepare reads the text and opens the output.
func (j *job) prepare(o Options) error {
	needed := j.mustHaveText()
	if needed && !j.texted {
		return fmt.Errorf("%w: %w", ErrOptions, ErrNeedsText)
	}
	if needed || j.texted {
		var err error
		if j.text, err = readCalibration(j.src, j.model, o.Calibration); err != nil {
			return err
		}
		j.tokens = j.text.tokens()
	}
	fingerprint, method, err := j.describe()
	if err != nil {
		return err
	}
	j.out, err = checkpoint.Create(checkpoint.WriterOptions{
		Out: j.output, Source: j.src, Format: j.set.format, Layers: j.plannedLayers(), Direct: j.direct(), Resume: o.Resume,
		Fingerprint: fingerprint, Method: method, MaxShardBytes: o.MaxShardBytes, Workers: j.set.workers,
		Progress: func(done, total int64) {
			j.event(Event{Kind: EventWrite, Done: int(done), Total: int(total)})
		},
	})
	return err
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

// mustHaveText is false only for methods without need of data in arms that
// leave nothing to choose.
func (j *job) mustHaveText() bool {
	if quant.NeedsCalibration(j.set.method) {
		return true
	}
	for _, k := range j.folds {
		if k.any() {
			return true
		}
	}
	for _, p := range j.order {
		if !p.dense && (len(p.arms) > 1 || p.arms[0].InputScale || p.arms[0].RowScale) {
			return true
		}
	}
	return false
}

// direct reports whether layers are rounded piece by piece on their way to
// their final place: what round-to-nearest can do without calibration.
func (j *job) direct() bool {
	_, rounding := j.set.method.(quant.RTN)
	return rounding && j.text == nil
}

// describe returns what decides the result, and what formats record of it.
func (j *job) describe() (fingerprint, method json.RawMessage, err error) {
	info := map[string]any{}
	for _, s := range j.set.told {
		switch s.Name {
		case "target", "format", "preset", "fit", "skip", "axis":
			// Not how the codes of a layer are found.
		case "bf16":
			if j.text != nil {
				info[s.Name] = j.set.bf16 && bfloat16Weights(j.model, j.src)
			}
		default:
			info[s.Name] = s.Value
		}
	}
	if j.text != nil {
		info["tokens"], info["seq_len"] = j.tokens, j.text.seqLen
	}
	if method, err = json.Marshal(info); err != nil {
		return nil, nil, err
	}
	info["model"], info["bytes"] = j.path, j.src.Bytes()
	if base := j.src.Base(); base != "" {
		info["base"] = base
	}
	info["fit"], info["skip"] = j.set.fit, fmt.Sprint(j.set.skip)
	if j.text != nil {
		info["text"] = j.text.digest()
	}
	fingerprint, err = json.Marshal(info)
	return fingerprint, method, err
}

func (j *job) run(ctx context.Context) error {
	n := 0
	for _, p := range j.order {
		if !p.silent {
			for _, note := range p.notes {
				j.event(Event{Kind: EventWarning, Name: p.name, Message: note})
			}
		}
		if !p.dense {
			n++
		}
		if !p.dense && j.out.Done(p.name) {
			j.kept++
		}
	}
	j.event(Event{Kind: EventPlan, Plan: j.explain(), Blocks: j.model.Layers, Total: n, Kept: j.kept})
	var err error
	switch {
	case j.text != nil:
		err = j.runBlocks(ctx)
	case j.direct():
		err = j.runDirect(ctx)
	default:
		err = j.runUncalibrated(ctx)
	}
	if err != nil {
		return err
	}
	return j.out.Finish(ctx)
}

// runUncalibrated quantizes layer by layer with a method that needs no data.
func (j *job) runUncalibrated(ctx context.Context) error {
	for _, p := range j.order {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !p.dense && j.out.Done(p.name) {
			if _, err := j.resumed(p); err != nil {
				return err
			}
			continue
		}
		var w *tensor.Matrix
		if !p.dense {
			var err error
			if w, err = j.src.Matrix(p.name + ".weight"); err != nil {
				return err
			}
		}
		if _, err := j.quantizeLayer(ctx, p, w, nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// draftOf is the method by which candidates for m are compared.
func draftOf(m quant.Quantizer) quant.Quantizer { return quant.Draft(m) }

// report is what is known of a layer before it is quantized.
func (p *layerPlan) report() *LayerReport {
	r := &LayerReport{Name: p.name, Out: p.out, In: p.in, Dense: p.dense, Folded: p.folded}
	r.Notes = append(r.Notes, p.notes...)
	if !p.dense {
		r.Scheme = p.layer(p.arms[0]).Scheme
		r.Arm = p.arms[0].String()
	}
	return r
}

// quantizeLayer puts one layer on its grid and hands it to the writer. It
// returns the weight the quantized model will have, or nil if the layer
// stays dense.
func (j *job) quantizeLayer(ctx context.Context, p *layerPlan, w *tensor.Matrix, cal *quant.Calibration, blockLoss func(context.Context, *tensor.Matrix) (float64, error)) (*quant.Weight, error) {
	start := time.Now()
	r := p.report()
	if p.dense {
		j.finish(r, false)
		return nil, nil
	}
	method := j.set.chooser(p.arms)
	if j.text != nil && (cal == nil || cal.Tokens == 0) {
		// An expert that no token was routed to.
		method.Method, method.Arms, cal = quant.RTN{Workers: j.set.workers}, p.arms[:1], nil
		r.Notes = append(r.Notes, "no token of the text reached it: rounded to nearest")
	}
	if j.set.correction > 0 && cal != nil && cal.Cross != nil {
		var err error
		if w, err = gptq.Correct(w, cal, gptq.Correction{Strength: j.set.correction}, j.set.workers); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	q, d, err := method.Choose(ctx, adadim.Layer{Weight: w, Calibration: cal, BlockLoss: blockLoss}, p.scheme)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	r.Scheme = q.Scheme
	r.measured(d)
	r.Bits = float64(q.StorageBits()) / float64(p.out*p.in)
	r.Notes = append(r.Notes, q.Notes...)
	r.Seconds = time.Since(start).Seconds()
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("%s: report: %w", p.name, err)
	}
	if err := j.out.Put(p.name, q, text); err != nil {
		return nil, err
	}
	j.made[p.name] = p.result(q)
	j.finish(r, true)
	return q, nil
}

// finish records a layer and tells of it. fresh says that it has just been
// put where Resume would find it.
func (j *job) finish(r *LayerReport, fresh bool) {
	if fresh {
		j.kept++
	}
	planned := len(j.plan[r.Name].notes) // told before the work
	for _, n := range r.Notes[min(planned, len(r.Notes)):] {
		j.event(Event{Kind: EventWarning, Name: r.Name, Message: n})
	}
	j.done[r.Name] = r
	j.event(Event{Kind: EventLayer, Layer: r, Done: len(j.done), Total: len(j.order), Kept: j.kept})
}

// settled ends a layer that needs no text any more.
func (j *job) settled(name string) error {
	p := j.plan[name]
	if p.dense {
		j.finish(p.report(), false)
		return nil
	}
	_, err := j.resumed(p)
	return err
}

// resumed returns a layer that an earlier run has finished.
func (j *job) resumed(p *layerPlan) (*quant.Weight, error) {
	q, err := j.out.Weight(p.name)
	if err != nil {
		return nil, err
	}
	r := &LayerReport{}
	if err := json.Unmarshal(j.out.Report(p.name), r); err != nil {
		return nil, fmt.Errorf("%s: report of the interrupted run: %w", p.name, err)
	}
	j.made[p.name] = p.result(q)
	j.finish(r, false)
	return q, nil
}

// report sums up.
func (j *job) report() (*Report, error) {
	r := &Report{Output: j.output, Format: j.set.format.Name(), Settings: j.settings(), Tokens: j.tokens}
	var err error
	if r.BytesBefore, err = weightBytes(j.path); err != nil {
		return nil, err
	}
	if r.BytesAfter, err = weightBytes(j.output); err != nil {
		return nil, fmt.Errorf("reading back the result: %w", err)
	}
	var bits, weights float64
	var layers []layout.Layer
	for _, p := range j.order {
		l := j.done[p.name]
		r.Layers = append(r.Layers, *l)
		if !l.Dense {
			bits += l.Bits * float64(l.Out*l.In)
			weights += float64(l.Out * l.In)
			layers = append(layers, j.made[p.name])
		}
	}
	if weights > 0 {
		r.BitsPerWeight = bits / weights
	}
	r.Engines = checkpoint.Engines(j.set.format, layers)
	return r, nil
}
