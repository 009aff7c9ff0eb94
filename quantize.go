package lowbit

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Quantize makes a quantized model. It needs the weights of two blocks and
// the residual stream of the calibration text in memory, not the model.
//
// If ctx is cancelled it returns within about a second; finished layers stay
// in the folder Output+".partial", and a later call with Resume goes on from
// there. The output appears under its name only when it is complete.
func Quantize(ctx context.Context, o Options) (*Report, error) {
	start := time.Now()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	j, err := newJob(ctx, o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	if err := j.run(); err != nil {
		return nil, err
	}
	r, err := j.report()
	if err != nil {
		return nil, err
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// job is one call of Quantize.
type job struct {
	Options
	ctx    context.Context
	src    *checkpoint.Model
	cfg    *llama.Config
	dst    layout.Format
	plan   map[string]*layerPlan // by layer name
	order  []*layerPlan
	folds  []folding // by block
	out    *checkpoint.Writer
	text   *calibrationText // nil if no text is needed
	done   map[string]*LayerReport
	tokens int
}

func newJob(ctx context.Context, o Options) (*job, error) {
	j := &job{Options: o, ctx: ctx, plan: map[string]*layerPlan{}, done: map[string]*LayerReport{}}
	var err error
	if j.dst, err = o.format(); err != nil {
		return nil, err
	}
	if j.src, err = checkpoint.Open(o.Model); err != nil {
		return nil, err
	}
	if err := j.open(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// open does everything that can fail before work starts.
func (j *job) open() error {
	if len(j.src.Quantized()) > 0 {
		return fmt.Errorf("%s: the model is quantized already (%s)", j.Model, j.src.Format().Name())
	}
	var err error
	if j.cfg, err = llama.ParseConfig(j.src.Config()); err != nil {
		return fmt.Errorf("%s: config.json: %w", j.Model, err)
	}
	if err := llama.CheckShapes(j.cfg, j.src); err != nil {
		return fmt.Errorf("%s: %w", j.Model, err)
	}
	if err := j.planLayers(); err != nil {
		return err
	}
	if j.needsText() {
		if len(j.Calibration.Files) == 0 {
			return fmt.Errorf("%w: this method needs calibration text", ErrOptions)
		}
		if j.text, err = readCalibration(j.src, j.cfg, j.Calibration); err != nil {
			return err
		}
		j.tokens = j.text.tokens()
	}
	layers := make([]layout.Layer, 0, len(j.order))
	for _, p := range j.order {
		if !p.dense {
			l := layout.Layer{Name: p.name}
			if j.direct() {
				l.Out, l.In, l.Scheme = p.out, p.in, p.scheme
				l.Scheme.Axis = p.arms[0].Axis
			}
			layers = append(layers, l)
		}
	}
	fingerprint, method, err := j.describe()
	if err != nil {
		return err
	}
	j.out, err = checkpoint.Create(checkpoint.WriterOptions{
		Out: j.Output, Source: j.src, Format: j.dst, Layers: layers, Direct: j.direct(), Resume: j.Resume,
		Fingerprint: fingerprint, Method: method, Workers: j.Workers,
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
	if j.Events != nil {
		j.Events(e)
	}
}

func (j *job) planLayers() error {
	var bad planErrors
	for b := range j.cfg.Layers {
		infos := j.cfg.Linears(b)
		layers := make([]layout.Layer, len(infos))
		for i, l := range infos {
			d, _ := j.src.DType(l.WeightName())
			layers[i] = layout.Layer{Name: l.Name, Out: l.Out, In: l.In, Bias: l.Bias, DType: d}
		}
		k, plans, errs := j.planBlock(j.dst, infos, layers)
		j.folds = append(j.folds, k)
		for i, p := range plans {
			if errs[i] != nil {
				bad.add(infos[i].Name, errs[i])
				continue
			}
			j.plan[p.name] = p
			j.order = append(j.order, p)
		}
	}
	return bad.err(j.dst.Name())
}

// direct reports whether layers can be written to their final place as they
// come: they need no calibration and their shape is known.
func (j *job) direct() bool { return j.text == nil }

// needsText is false only for round-to-nearest in one given axis.
func (j *job) needsText() bool {
	if _, ok := j.method().(quant.RTN); !ok || len(j.Calibration.Files) > 0 {
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

// describe returns what decides the result, and what formats record of it.
func (j *job) describe() (fingerprint, method json.RawMessage, err error) {
	info := map[string]any{
		"method": fmt.Sprintf("%T", j.method()), "scheme": j.Scheme, "arms": fmt.Sprint(j.arms()),
		"objective": j.Objective.String(), "search": j.Search.String(), "inputs": j.Inputs.String(),
		"correction": j.Correction, "fold": j.Fold.String(),
	}
	if g, ok := j.method().(gptq.Quantizer); ok {
		g.Workers = 0
		info["gptq"] = g
	}
	if j.text != nil {
		info["bf16"] = j.BF16 && halfWeights(j.cfg, j.src)
		info["tokens"], info["seq_len"] = j.tokens, j.text.seqLen
	}
	if method, err = json.Marshal(info); err != nil {
		return nil, nil, err
	}
	info["model"], info["bytes"] = j.Model, j.src.Bytes()
	info["fit"], info["fit_arms"], info["skip"] = j.Fit, j.FitArms, fmt.Sprint(j.Skip)
	if j.text != nil {
		info["text"] = j.text.digest()
	}
	fingerprint, err = json.Marshal(info)
	return fingerprint, method, err
}

func (j *job) run() error {
	n := 0
	for _, p := range j.order {
		for _, note := range p.notes {
			j.event(Event{Kind: EventWarning, Message: p.name + ": " + note})
		}
		if !p.dense {
			n++
		}
	}
	j.event(Event{Kind: EventPlan, Blocks: j.cfg.Layers, Total: n})
	var err error
	if j.text == nil {
		err = j.runDirect()
	} else {
		err = j.runBlocks()
	}
	if err != nil {
		return err
	}
	return j.out.Finish(j.ctx)
}

// chooser returns AdaDim over the method for a layer.
func (j *job) chooser(p *layerPlan) adadim.Quantizer {
	return adadim.Quantizer{Method: j.method(), Arms: p.arms, Objective: j.Objective, Search: j.Search, Workers: j.Workers}
}

// quantizeLayer puts one layer on its grid and hands it to the writer. It
// returns the weight the quantized model will have, or nil if the layer
// stays dense.
func (j *job) quantizeLayer(p *layerPlan, w *tensor.Matrix, cal *quant.Calibration, blockLoss func(context.Context, *tensor.Matrix) (float64, error)) (*quant.Weight, error) {
	start := time.Now()
	r := &LayerReport{Name: p.name, Out: p.out, In: p.in, Dense: p.dense, Scheme: p.scheme, Folded: p.folded}
	r.Notes = append(r.Notes, p.notes...)
	if p.dense {
		j.finish(r)
		return nil, nil
	}
	if j.Correction > 0 {
		var err error
		if w, err = gptq.Correct(w, cal, j.Correction, 0, j.Workers); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	ada := j.chooser(p)
	ada.BlockLoss = blockLoss
	q, d, err := ada.Choose(j.ctx, w, p.scheme, cal)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	r.Arm, r.Scheme, r.Decision = d.Candidates[d.Chosen].Arm.String(), q.Scheme, d
	r.Relative, r.Margin = d.Relative, d.Margin()
	if d.OutputSize > 0 {
		r.Loss = d.Loss / d.OutputSize
	}
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
	j.finish(r)
	return q, nil
}

// finish records a layer and tells of it.
func (j *job) finish(r *LayerReport) {
	planned := len(j.plan[r.Name].notes) // told before the work
	for _, n := range r.Notes[min(planned, len(r.Notes)):] {
		j.event(Event{Kind: EventWarning, Message: r.Name + ": " + n})
	}
	j.done[r.Name] = r
	j.event(Event{Kind: EventLayer, Layer: r, Done: len(j.done), Total: len(j.order)})
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
	j.finish(r)
	return q, nil
}

// report sums up.
func (j *job) report() (*Report, error) {
	out, err := checkpoint.Open(j.Output)
	if err != nil {
		return nil, fmt.Errorf("reading back the result: %w", err)
	}
	defer out.Close()
	r := &Report{Output: j.Output, Format: j.dst.Name(), BytesBefore: j.src.Bytes(), BytesAfter: out.Bytes(), Tokens: j.tokens}
	var bits, weights float64
	for _, p := range j.order {
		l := j.done[p.name]
		r.Layers = append(r.Layers, *l)
		if !l.Dense {
			bits += l.Bits * float64(l.Out*l.In)
			weights += float64(l.Out * l.In)
		}
	}
	if weights > 0 {
		r.BitsPerWeight = bits / weights
	}
	return r, nil
}
