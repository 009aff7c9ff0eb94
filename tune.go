package lowbit

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/distill"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

type (
	// Tune says what is tuned once all layers are quantized.
	Tune = distill.Tune
	// Tuning is how a quantized model is tuned.
	Tuning = distill.Tuning
	// Tuned is the outcome of a Tuning.
	Tuned = distill.Tuned
)

// What is tuned; see Tune.
const (
	TuneOff    = distill.TuneOff
	TuneScales = distill.TuneScales
	TuneCodes  = distill.TuneCodes
)

// ParseTune reads "off", "scales" or "codes". Errors wrap ErrOptions.
func ParseTune(s string) (Tune, error) { return distill.ParseTune(s) }

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
