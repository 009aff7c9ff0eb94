package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/hub"
	"github.com/golowbit/lowbit/cmd/lowbit-localai/internal/pb"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/memory"
)

// States of a job, by the names of the contract.
const (
	queued      = "queued"
	downloading = "downloading"
	quantizing  = "quantizing"
	completed   = "completed"
	failed      = "failed"
	stopped     = "stopped"
)

// most is how many updates are kept for those who are slow to read them.
const most = 4096

// job is one quantization.
type job struct {
	id      string
	options *request
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{} // closed when the job has ended
	free    chan struct{} // closed when those before it have, too

	mu      sync.Mutex
	first   int // number of the first of updates
	updates []*pb.QuantizationProgressUpdate
	changed chan struct{} // closed when there are more

	// Of the goroutine of run.
	at progress
}

func newJob(id string, o *request) *job {
	j := &job{id: id, options: o, done: make(chan struct{}), free: make(chan struct{}), changed: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancel(context.Background())
	j.tell(&pb.QuantizationProgressUpdate{Status: queued, Message: "waiting for its turn"})
	return j
}

// run does the work once turn, if not nil, is closed.
func (j *job) run(turn <-chan struct{}) {
	defer close(j.free)
	if turn != nil {
		defer func() { <-turn }()
	}
	defer close(j.done)
	defer j.cancel()
	var report *lowbit.Report
	err := j.wait(turn)
	if err == nil {
		report, err = j.work()
	}
	u := &pb.QuantizationProgressUpdate{ProgressPercent: j.at.percent}
	switch {
	case err == nil:
		u = j.outcome(report)
	case j.ctx.Err() != nil && errors.Is(err, context.Canceled):
		u.Status, u.Message = stopped, "stopped"
		if _, err := os.Stat(j.options.Output + checkpoint.PartialSuffix); err == nil {
			u.Message = fmt.Sprintf("stopped; %d of %d layers are finished and kept in %s%s, where a job with the same settings and output_dir goes on",
				j.at.kept, j.at.layers, j.options.Output, checkpoint.PartialSuffix)
		}
	default:
		u.Status, u.Message = failed, faults.OneLine(err)
	}
	j.tell(u)
}

func (j *job) wait(turn <-chan struct{}) error {
	if turn != nil {
		select {
		case <-turn:
		case <-j.ctx.Done():
		}
	}
	return j.ctx.Err()
}

// work finds the model, and quantizes it.
func (j *job) work() (r *lowbit.Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error: %v\n%s", p, debug.Stack())
		}
	}()
	o := j.options.Options
	environment := hub.Options{Progress: j.loaded, Getenv: os.Getenv}
	if token := j.options.token; token != "" {
		environment.Getenv = func(name string) string {
			if name == "HF_TOKEN" {
				return token
			}
			return os.Getenv(name)
		}
	}
	if o.Model, err = hub.Path(j.ctx, o.Model, environment); err != nil {
		return nil, err
	}
	if err = hub.Base(j.ctx, o.Model, environment); err != nil {
		return nil, err
	}
	_, partial := os.Stat(o.Output + checkpoint.PartialSuffix)
	o.Resume = partial == nil
	o.Events = j.event
	return lowbit.Quantize(j.ctx, o)
}

// loaded is told of bytes that are loaded from the hub.
func (j *job) loaded(done, total int64) {
	if total > 0 && j.at.due(done == total) {
		j.tell(&pb.QuantizationProgressUpdate{
			Status: downloading, ProgressPercent: j.at.reach(0, afterLoading, float64(done)/float64(total)),
			Message: fmt.Sprintf("%s of %s of %s loaded", memory.Decimal(done), memory.Decimal(total), j.options.Model),
		})
	}
}

// event is told how far lowbit is.
func (j *job) event(e lowbit.Event) {
	message, metrics := j.at.event(e)
	if message == "" {
		return
	}
	j.tell(&pb.QuantizationProgressUpdate{Status: quantizing, ProgressPercent: j.at.percent, Message: message, ExtraMetrics: metrics})
}

// outcome tells of the result.
func (j *job) outcome(r *lowbit.Report) *pb.QuantizationProgressUpdate {
	u := &pb.QuantizationProgressUpdate{
		Status: completed, ProgressPercent: 100, OutputFile: r.Output,
		Message: fmt.Sprintf("%s before, %s after; %.3f bits per quantized weight; %.1f s", memory.Decimal(r.BytesBefore), memory.Decimal(r.BytesAfter), r.BitsPerWeight, r.Seconds),
		ExtraMetrics: map[string]float32{
			"file_size_mb":    float32(r.BytesAfter) / (1 << 20),
			"bits_per_weight": float32(r.BitsPerWeight),
			"seconds":         float32(r.Seconds),
		},
	}
	if r.BytesAfter > 0 {
		u.ExtraMetrics["compression_ratio"] = float32(r.BytesBefore) / float32(r.BytesAfter)
	}
	if e := r.Evaluation; e != nil {
		u.Message += fmt.Sprintf("; perplexity %.4f before, %.4f after", *e.Against, e.Perplexity)
		u.ExtraMetrics["perplexity_before"], u.ExtraMetrics["perplexity"] = float32(*e.Against), float32(e.Perplexity)
		u.ExtraMetrics["kl"] = float32(*e.KL)
	}
	return u
}

// tell adds an update.
func (j *job) tell(u *pb.QuantizationProgressUpdate) {
	u.JobId = j.id
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.updates) == most {
		j.first += most / 2
		j.updates = append(j.updates[:0:0], j.updates[most/2:]...)
	}
	j.updates = append(j.updates, u)
	close(j.changed)
	j.changed = make(chan struct{})
}

// since returns updates from number next on, or the last one if that is negative; the number of
// the next; and what is closed when it is there, nil if the job has ended.
func (j *job) since(next int) ([]*pb.QuantizationProgressUpdate, int, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	end := j.first + len(j.updates)
	if next < 0 {
		next = end - 1
	}
	list := j.updates[max(0, next-j.first):]
	if terminal(j.updates[len(j.updates)-1]) {
		return list, end, nil
	}
	return list, end, j.changed
}

func terminal(u *pb.QuantizationProgressUpdate) bool {
	return u.Status == completed || u.Status == failed || u.Status == stopped
}

// state is that of the last update.
func (j *job) state() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.updates[len(j.updates)-1].Status
}

func (j *job) ended() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return terminal(j.updates[len(j.updates)-1])
}

// stop ends the job, and reports whether it has ended before ctx did.
func (j *job) stop(ctx context.Context) bool {
	j.cancel()
	select {
	case <-j.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// progress is how far a job is.
type progress struct {
	percent      float32
	kept, layers int

	weights, done, idle float64 // of layers; idle are those of an earlier run
	begun               time.Time
	last                time.Time // when what comes often was told
}

// What the parts of a job stand for in a hundred.
const (
	afterLoading = 20
	afterPasses  = 30 // through the model as a whole, before layers
	afterLayers  = 90
	afterTuning  = 95
)

// reach is how far the job is with a share of what leads from one percentage to another; it never
// goes back.
func (p *progress) reach(from, to, share float64) float32 {
	p.percent = max(p.percent, float32(from+(to-from)*min(1, share)))
	return p.percent
}

// due limits what comes often to five times a second.
func (p *progress) due(last bool) bool {
	now := time.Now()
	if !last && now.Sub(p.last) < time.Second/5 {
		return false
	}
	p.last = now
	return true
}

// event is what there is to say of an event, "" if nothing.
func (p *progress) event(e lowbit.Event) (message string, metrics map[string]float32) {
	share := float64(e.Done) / max(1, float64(e.Total))
	switch e.Kind {
	case lowbit.EventPlan:
		p.layers, p.kept, p.begun = e.Total, e.Kept, time.Now()
		p.weights, p.done, p.idle = 0, 0, 0
		for _, l := range e.Plan.Layers {
			if !l.Dense {
				p.weights += float64(l.Out) * float64(l.In)
			}
		}
		p.reach(0, afterLoading, 1)
		message = fmt.Sprintf("%d layers to quantize in %d blocks", e.Total, e.Blocks)
		if e.Kept > 0 {
			message += fmt.Sprintf(", %d of them finished by an earlier job", e.Kept)
		}
	case lowbit.EventLayer:
		return p.layer(e)
	case lowbit.EventProgress:
		if p.done > 0 {
			p.reach(afterLayers, afterTuning, share)
		} else {
			p.reach(afterLoading, afterPasses, share)
			p.begun = time.Now() // work on layers has not
		}
		if p.due(e.Done == e.Total) {
			message = fmt.Sprintf("%s: %.0f %%", e.Message, 100*share)
		}
	case lowbit.EventTune:
		message = fmt.Sprintf("tuning: after %d of %d steps a divergence of %.4f on the text held out", e.Done, e.Total, e.KL)
	case lowbit.EventWrite:
		if p.done < p.weights {
			return "", nil // layers that are put to where they belong as they come
		}
		p.reach(afterTuning, 100, share)
		if p.due(e.Done == e.Total) {
			message = fmt.Sprintf("writing: %.0f %%", 100*share)
		}
	case lowbit.EventWarning:
		message = "warning: " + e.Message
		if e.Name != "" {
			message = "warning: " + e.Name + ": " + e.Message
		}
	}
	return message, nil
}

// layer is what there is to say of a layer that is done.
func (p *progress) layer(e lowbit.Event) (string, map[string]float32) {
	l := e.Layer
	resumed := e.Kept == p.kept
	p.kept = e.Kept
	if !l.Dense {
		n := float64(l.Out) * float64(l.In)
		p.done += n
		if resumed {
			p.idle += n
		}
	}
	p.reach(afterPasses, afterLayers, p.done/max(1, p.weights))
	metrics := map[string]float32{"layers_done": float32(e.Done), "layers_total": float32(e.Total)}
	message := fmt.Sprintf("[%d/%d] %s", e.Done, e.Total, l.Name)
	switch {
	case l.Dense:
		message += ", left dense"
	case l.Loss != nil:
		message += fmt.Sprintf(", %s, loss %.3g", l.Arm, *l.Loss)
		metrics["loss"] = float32(*l.Loss)
	}
	spent := time.Since(p.begun).Seconds()
	if fresh := p.done - p.idle; fresh > 0 && spent >= 2 && p.done < p.weights {
		metrics["eta_seconds"] = float32(spent / fresh * (p.weights - p.done))
	}
	return message, metrics
}
