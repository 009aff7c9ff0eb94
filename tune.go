package lowbit

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/distill"
	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// Tune says what is tuned once all layers are quantized: the quantized model as a whole
// learns to predict what the unquantized one does (distillation). A model with an
// operation that no gradient goes back through is refused. Its text is "off", "scales"
// or "codes".
type Tune uint8

const (
	// TuneOff leaves layers as the method has made them.
	TuneOff Tune = iota
	// TuneScales tunes group scales.
	TuneScales
	// TuneCodes tunes group scales, and codes by straight-through estimation; on grids
	// whose codes are not evenly spaced (IQ4) scales alone.
	TuneCodes
)

var tunes = enum.New[Tune]("Tune", "tuning", ErrOptions, "off", "scales", "codes")

// String returns the text of t.
func (t Tune) String() string { return tunes.String(t) }

// MarshalText implements encoding.TextMarshaler.
func (t Tune) MarshalText() ([]byte, error) { return tunes.Marshal(t) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *Tune) UnmarshalText(text []byte) error { return tunes.Unmarshal(t, text) }

// ParseTune reads "off", "scales" or "codes". Errors wrap ErrOptions.
func ParseTune(s string) (Tune, error) { return tunes.Parse(s) }

// Tuning is how a quantized model is tuned.
type Tuning struct {
	What  Tune
	Steps int // of about 2048 tokens; 0 means 100 for scales and 200 for codes
	// Tokens is how many of the calibration text are used, evenly spread; 0 means all,
	// also those that layers are not calibrated on. Every eighth window is held out.
	Tokens int
}

func (t Tuning) validate() error {
	if err := tunes.Check(t.What); err != nil {
		return err
	}
	if t.Steps < 0 || t.Tokens < 0 {
		return badOptions("tuning of %d steps on %d tokens, want none negative", t.Steps, t.Tokens)
	}
	if t.What == TuneOff && t != (Tuning{}) {
		return badOptions("steps or tokens of a tuning, and nothing is tuned")
	}
	return nil
}

// Tuned is the outcome of a Tuning.
type Tuned struct {
	What  Tune `json:"what"`
	Steps int  `json:"steps"`
	Best  int  `json:"best"` // the step whose weights were taken; 0 if none was better
	// KL is the mean divergence from the unquantized model's predictions on the windows
	// held out, in nats a token, before and after.
	Before float64 `json:"kl_before"`
	After  float64 `json:"kl_after"`
}

// windows are those of a text that are tuned on.
func (t Tuning) windows(all [][]int32, seqLen int) ([][]int32, error) {
	if t.What == TuneOff {
		return nil, nil
	}
	n := len(all)
	if t.Tokens > 0 {
		n = min(n, (t.Tokens+seqLen-1)/seqLen)
	}
	if n < distill.HeldOut {
		return nil, badOptions("tuning on %d windows of %d tokens, want at least %d, of which one is held out", n, seqLen, distill.HeldOut)
	}
	return text.Spread(all, n), nil
}

// planTuning adds to the plan what tuning takes, and refuses what there is not.
func (j *job) planTuning(limit int64) error {
	if j.set.tuning.What == TuneOff {
		return nil
	}
	var weights int64
	for _, l := range j.plan.Layers {
		if !l.Dense {
			weights += int64(l.Out) * int64(l.In)
		}
	}
	p, err := memory.Tuning(limit, distill.Memory(j.model, weights, len(j.text.tuning)*j.text.seqLen, j.set.tuning.What == TuneCodes))
	if err != nil {
		return fmt.Errorf("%s: %w", j.path, err)
	}
	j.memory.Besides("tuning", p.Peak())
	return nil
}

// tune distills the model that the layers make. An interrupted run tunes anew.
func (j *job) tune(ctx context.Context) error {
	if j.set.tuning.What == TuneOff {
		return nil
	}
	defer phases.Of(ctx).Whole(phases.Tuning)()
	runner := program.NewRunner(j.set.workers)
	w := &walk.Walk{Model: j.model, Weights: j.src, Runner: runner, SeqLen: j.text.seqLen, Store: streams.New(runner, 1<<62, nil)}
	s := distill.NewStudent(j.src, j.set.workers)
	if err := w.Blocks(ctx, j.model.Layers, func(b *program.Block) error { return j.putStudent(s, b) }); err != nil {
		return err
	}
	train, held := distill.Split(j.text.tuning)
	steps := j.set.tuning.Steps
	r, err := distill.Run(ctx, w, s, train, held, distill.Options{
		Steps: steps,
		Step: func(step int) {
			j.event(Event{Kind: EventProgress, Done: step, Total: steps, Message: "tuning"})
		},
		Seen: func(step int, kl float64) {
			j.event(Event{Kind: EventTune, Done: step, Total: steps, KL: kl})
		},
	})
	if err != nil {
		return fmt.Errorf("tuning: %w", err)
	}
	j.tuned = &Tuned{What: j.set.tuning.What, Steps: steps, Best: r.Step, Before: r.Before, After: r.After}
	for name, q := range r.Weights {
		if err := j.out.Replace(name, q); err != nil {
			return err
		}
		j.made[name] = j.plan.Layer(name).As(q)
	}
	return nil
}

// putStudent adds what was made of a block to the model that is tuned.
func (j *job) putStudent(s *distill.Student, b *program.Block) error {
	scales, err := blocks.Folded(b, blockLayers{j})
	if err != nil {
		return err
	}
	if scales != nil {
		s.PutVectors(scales.Stored())
	}
	for i, l := range b.Linears {
		if j.plan.Layer(l.Name).Dense {
			continue
		}
		q, err := j.out.Weight(l.Name)
		if err != nil {
			return err
		}
		var original *tensor.Matrix
		if j.set.tuning.What == TuneCodes {
			original = scales.Weight(i, b.Linear(i).Weight)
		}
		s.Put(l, q, original)
	}
	return nil
}
