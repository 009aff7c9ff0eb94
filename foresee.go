package lowbit

import (
	"cmp"
	"context"
	"fmt"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/distill"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/text"
	"github.com/golowbit/lowbit/quant"
)

// MemoryPlan says how memory is divided.
type MemoryPlan = memory.Plan

// DiskSpace is what a run takes of the disk, and what there is.
type DiskSpace = checkpoint.Space

// Foresee is Resolve with the text, which it reads: the plan says what memory and
// disk a run will need, and about how long it takes on this machine, by a
// measurement of about a second. It fails where Quantize would before the first
// layer; what lies at Output already, and whether the disk there has room, does not
// matter.
func Foresee(ctx context.Context, o Options) (*Plan, error) {
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	defer j.close()
	j.foreseen = true
	if err := j.readText(ctx, &o); err != nil {
		return nil, err
	}
	p := j.explain()
	w, err := j.writerOptions(ctx, &o)
	if err != nil {
		return nil, err
	}
	if p.Disk, err = checkpoint.SpaceFor(w); err != nil {
		return nil, err
	}
	p.Seconds, err = j.seconds(ctx)
	return p, err
}

// calibration is what decides the memory of a run with text.
func (j *job) calibration() *memory.Calibration {
	c := &memory.Calibration{
		Model: j.model, Tokens: j.tokens, SeqLen: j.text.seqLen, Held: j.held(), Chunks: j.tokens > cmp.Or(chunkTokens, blocks.ChunkTokens),
		Quantized: j.set.inputs != InputsFull, Paired: j.set.correction > 0, References: j.set.objective == adadim.ObjectiveBlock,
		Folds:    func(block, stage int) bool { return j.plan.Folds[block][stage] },
		ByExpert: j.set.tuning.What == TuneOff,
		Solve:    func(out, in int) int64 { return quant.Memory(j.set.chooser(j.set.arms), out, in) },
	}
	if j.set.curvature == CurvatureOn {
		solve := c.Solve
		c.Solve = func(out, in int) int64 { return solve(out, in) + gptq.CurvatureMemory(out, in) }
		c.Curved = func(name string) bool { return !j.plan.Layer(name).Dense }
	}
	return c
}

// held is what the text to measure on takes as tokens while layers are worked on.
func (j *job) held() int64 {
	var n int64
	for _, w := range j.windows {
		n += 4 * int64(len(w))
	}
	return n
}

// planMemory divides what there is among what the work needs.
func (j *job) planMemory(limit int64) (p *memory.Plan, err error) {
	limit = cmp.Or(limit, memory.Default())
	if j.text != nil {
		p, err = j.calibration().Plan(limit)
	} else {
		var most int64
		direct := j.direct()
		for _, l := range j.plan.Layers {
			if !l.Dense && !direct {
				most = max(most, 4*int64(l.Out+l.In)*int64(l.In)+quant.Memory(j.set.chooser(l.Arms), l.Out, l.In))
			}
		}
		p, err = memory.Layer(limit, most+j.held())
	}
	if err != nil && j.set.curvature == CurvatureOn {
		err = fmt.Errorf("%w; without curvature less is needed", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", j.path, err)
	}
	return p, nil
}

// planMoments adds to the plan what comes before and after the work on layers.
func (j *job) planMoments(limit int64, texts []Text) error {
	var reading int64
	for _, t := range texts {
		p, err := text.Reading(t, limit)
		if err != nil {
			return err
		}
		reading = max(reading, p.Peak())
	}
	j.memory.Besides("reading text", reading)
	j.memory.Besides("embedding and head", j.plan.OuterBytes())
	var largest int64
	direct := j.direct()
	for _, l := range j.plan.Layers {
		if !l.Dense && !direct {
			largest = max(largest, int64(l.Out)*int64(l.In))
		}
	}
	for _, p := range j.places { // a matrix is written as a whole
		largest = max(largest, int64(p.Outputs)*int64(p.In))
	}
	_, floats := j.set.format.(dense.Format)
	var bytes int64
	bytes, j.writers = memory.Writing(cmp.Or(limit, memory.Default()), largest, floats, parallel.Workers(j.set.workers))
	j.memory.Besides("writing", bytes)
	return nil
}

// seconds is about how long a run takes.
func (j *job) seconds(ctx context.Context) (float64, error) {
	curved := j.set.curvature == CurvatureOn
	each, err := fitting.Pace(ctx, j.set.chooser(j.set.arms), j.set.scheme, j.text != nil, curved && j.text != nil, j.set.workers)
	if err != nil {
		return 0, err
	}
	var total float64
	if j.text != nil {
		total = j.calibration().Products(j.memory) / memory.Speed(j.set.workers)
		if j.set.tuning.What != TuneOff {
			total += distill.Products(j.model, len(j.text.tuning)*j.text.seqLen, j.set.tuning.Steps) / memory.Speed(j.set.workers)
		}
	}
	for _, p := range j.plan.Layers {
		if !p.Dense {
			total += each * memory.Solves(p.Out, p.In)
		}
	}
	return total, nil
}
