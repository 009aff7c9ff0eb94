package lowbit

import (
	"context"

	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// batchTokens is about how many tokens go through a block at once: enough
// for products to run at full speed, few enough to stay small in memory. It
// must not depend on the number of workers.
const batchTokens = 2048

// loaded is a block, or what went wrong reading it.
type loaded struct {
	block *llama.Block
	err   error
}

// prefetch reads the next block while the caller works on the one before.
func prefetch(ctx context.Context, cfg *llama.Config, src llama.Weights) <-chan loaded {
	ch := make(chan loaded)
	go func() {
		defer close(ch)
		for i := range cfg.Layers {
			b, err := llama.LoadBlock(cfg, src, i)
			select {
			case ch <- loaded{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ch
}

// blockRun is the work on a model's blocks, one after another.
type blockRun struct {
	*job
	ctx context.Context
	fwd *llama.Runner

	// Residual streams [tokens, hidden] of all calibration windows: full is
	// that of the unquantized model, quantized what the quantized layers so
	// far make of it. With InputsFull the latter is nil; with InputsQuantized
	// the former, unless the correction needs it.
	full, quantized *tensor.Matrix

	block *llama.Block // unquantized
	qb    llama.Block  // the same, quantized as far as it goes

	// scales are what is folded in the block. Both blocks above are without
	// them: layers are scaled when they are quantized, and back afterwards.
	scales *fold.Scales
}

func (j *job) runBlocks(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fwd, err := newRunner(j.cfg, j.src, j.set.bf16, j.set.workers)
	if err != nil {
		return err
	}
	emb, err := llama.LoadEmbedding(j.cfg, j.src)
	if err != nil {
		return err
	}
	r := &blockRun{job: j, ctx: ctx, fwd: fwd}
	x := tensor.New(j.text.tokens(), j.cfg.Hidden)
	for i, w := range j.text.windows {
		if err := llama.Embed(rows(x, i*j.text.seqLen, (i+1)*j.text.seqLen), emb, w); err != nil {
			return err
		}
	}
	switch {
	case j.set.inputs == InputsFull:
		r.full = x
	case j.set.correction > 0:
		r.full, r.quantized = x.Clone(), x
	default:
		r.quantized = x
	}
	next := prefetch(ctx, j.cfg, j.src)
	for i := range j.cfg.Layers {
		l := <-next
		if l.err != nil {
			return l.err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		j.event(Event{Kind: EventBlock, Block: i, Blocks: j.cfg.Layers})
		r.block, r.qb, r.scales = l.block, *l.block, nil
		if err := r.run(); err != nil {
			return err
		}
	}
	return nil
}

func (r *blockRun) run() error {
	if r.set.inputs == InputsFull {
		return r.runFull()
	}
	return r.runStaged()
}

// eachBatch calls fn for batches of whole windows, rows [r0, r1).
func (r *blockRun) eachBatch(fn func(r0, r1 int) error) error {
	seq := r.text.seqLen
	step := max(1, batchTokens/seq) * seq
	n := r.text.tokens()
	for r0 := 0; r0 < n; r0 += step {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if err := fn(r0, min(r0+step, n)); err != nil {
			return err
		}
	}
	return nil
}

func rows(m *tensor.Matrix, r0, r1 int) *tensor.Matrix { return m.View(r0, r1, 0, m.Cols) }

// width is how wide an input of a block is.
func (r *blockRun) width(in llama.Input) int {
	switch in {
	case llama.AttnOutput:
		return r.cfg.QueryWidth()
	case llama.MLPAct:
		return r.cfg.Intermediate
	}
	return r.cfg.Hidden
}

// pending reports whether any layer that reads the input is still to be done.
func (r *blockRun) pending(in llama.Input) bool {
	for _, l := range r.cfg.Linears(r.block.Index) {
		if p := r.plan[l.Name]; l.Input == in && !p.dense && !r.out.Done(l.Name) {
			return true
		}
	}
	return false
}

// runFull observes all inputs of the block in one pass of the unquantized
// stream, then quantizes its layers.
func (r *blockRun) runFull() error {
	b := r.block
	pending := false
	for in := range llama.Inputs {
		pending = pending || r.pending(in)
	}
	folds := r.folds[b.Index].any() && pending
	var collectors [llama.Inputs]*quant.Collector
	for in := range llama.Inputs {
		if folds || r.pending(in) {
			collectors[in] = r.collector(in, false)
		}
	}
	ref := r.newReference()
	err := r.eachBatch(func(r0, r1 int) error {
		x := rows(r.full, r0, r1)
		observe := func(in llama.Input, h *tensor.Matrix) {
			if c := collectors[in]; c != nil {
				c.Add(h, r.set.workers)
			}
		}
		n := r1 - r0
		h, a := tensor.New(n, r.cfg.Hidden), tensor.New(n, r.cfg.QueryWidth())
		r.fwd.AttnInput(b, h, x)
		observe(llama.AttnInput, h)
		r.fwd.Attend(b, a, h, r.text.seqLen)
		observe(llama.AttnOutput, a)
		ref.attention(r0, r1, x, h)
		r.fwd.AttnOutput(b, x, a)
		ref.attended(r0, r1, x)
		r.fwd.MLPInput(b, h, x)
		observe(llama.MLPInput, h)
		act := tensor.New(n, r.cfg.Intermediate)
		r.fwd.MLPAct(b, act, h)
		observe(llama.MLPAct, act)
		ref.mlp(r0, r1, x, h)
		r.fwd.MLPOutput(b, x, act)
		ref.done(r0, r1, x)
		return nil
	})
	if err != nil {
		return err
	}
	var cals [llama.Inputs]*quant.Calibration
	for in, c := range collectors {
		if c != nil {
			cals[in] = c.Calibration()
		}
	}
	if folds {
		if err := r.foldScales(cals); err != nil {
			return err
		}
	}
	for in, cal := range cals {
		cals[in] = r.scaled(llama.Input(in), cal)
	}
	for _, l := range r.cfg.Linears(b.Index) {
		if err := r.layer(l, cals[l.Input], ref); err != nil {
			return err
		}
	}
	return nil
}

// layer quantizes one linear and puts the result into the quantized block.
func (r *blockRun) layer(l llama.LinearInfo, cal *quant.Calibration, ref *reference) error {
	p := r.plan[l.Name]
	w := r.scales.Weight(l.Role, r.block.Linear(l.Role).Weight)
	var q *quant.Weight
	var err error
	if !p.dense && r.out.Done(l.Name) {
		q, err = r.resumed(p)
	} else {
		q, err = r.quantizeLayer(r.ctx, p, w, cal, r.blockLoss(l.Role, ref, w, cal))
	}
	if err != nil || q == nil {
		return err
	}
	if r.set.inputs == InputsQuantized {
		r.qb.Linear(l.Role).Weight = r.scales.Restore(l.Role, q.Dequantize())
	}
	return nil
}

// runStaged quantizes the layers of a block in the order in which they
// compute, each group on what the quantized layers before it make of the
// text.
func (r *blockRun) runStaged() error {
	var h, a streamPair
	hidden := r.cfg.Hidden
	b, qb, seq := r.block, &r.qb, r.text.seqLen
	h.resize(r, hidden)
	a.resize(r, r.cfg.QueryWidth())
	ref := r.newReference()
	if r.folds[b.Index].any() {
		// Also where all is done: what was quantized is scaled back.
		cals, err := r.observeForFolding()
		if err == nil {
			err = r.foldScales(cals)
		}
		if err != nil {
			return err
		}
	}

	// Each stage computes an input for both streams, observes it, and
	// quantizes the layers that read it.
	stage := func(in llama.Input, keep *streamPair, compute func(fb *llama.Block, x, dst *tensor.Matrix, r0, r1 int, full bool)) error {
		var c *quant.Collector
		if r.pending(in) {
			c = r.collector(in, r.full != nil)
		}
		err := r.eachBatch(func(r0, r1 int) error {
			var dst, dstFull *tensor.Matrix
			if keep != nil {
				dst, dstFull = keep.batch(r0, r1)
			} else {
				dst = tensor.New(r1-r0, r.width(in))
				if r.full != nil {
					dstFull = tensor.New(r1-r0, r.width(in))
				}
			}
			compute(qb, rows(r.quantized, r0, r1), dst, r0, r1, false)
			if r.full != nil {
				compute(b, rows(r.full, r0, r1), dstFull, r0, r1, true)
			}
			switch {
			case c == nil:
			case r.full != nil:
				var lack *tensor.Matrix
				if in == llama.AttnOutput || in == llama.MLPAct {
					lack = rows(r.full, r0, r1).Clone()
					subtract(lack, rows(r.quantized, r0, r1))
				}
				c.AddPair(dstFull.Clone(), dst, lack, r.set.workers)
			default:
				c.Add(dst, r.set.workers)
			}
			return nil
		})
		if err != nil {
			return err
		}
		var cal *quant.Calibration
		if c != nil {
			cal = r.scaled(in, c.Calibration())
		}
		for _, l := range r.cfg.Linears(b.Index) {
			if l.Input == in {
				if err := r.layer(l, cal, ref); err != nil {
					return err
				}
			}
		}
		return nil
	}

	if err := stage(llama.AttnInput, &h, func(fb *llama.Block, x, dst *tensor.Matrix, r0, r1 int, full bool) {
		r.fwd.AttnInput(fb, dst, x)
		if !full && ref != nil {
			out := tensor.New(r1-r0, r.cfg.QueryWidth())
			r.fwd.Attend(b, out, dst, seq)
			y := x.Clone()
			r.fwd.AttnOutput(b, y, out)
			ref.attention(r0, r1, x, dst)
			ref.attended(r0, r1, y)
		}
	}); err != nil {
		return err
	}
	if err := stage(llama.AttnOutput, &a, func(fb *llama.Block, _, dst *tensor.Matrix, r0, r1 int, full bool) {
		r.fwd.Attend(fb, dst, h.rows(r0, r1, full), seq)
	}); err != nil {
		return err
	}
	if err := stage(llama.MLPInput, &h, func(fb *llama.Block, x, dst *tensor.Matrix, r0, r1 int, full bool) {
		r.fwd.AttnOutput(fb, x, a.rows(r0, r1, full))
		r.fwd.MLPInput(fb, dst, x)
		if !full && ref != nil {
			act := tensor.New(r1-r0, r.cfg.Intermediate)
			r.fwd.MLPAct(b, act, dst)
			y := x.Clone()
			r.fwd.MLPOutput(b, y, act)
			ref.mlp(r0, r1, x, dst)
			ref.done(r0, r1, y)
		}
	}); err != nil {
		return err
	}
	if err := stage(llama.MLPAct, nil, func(fb *llama.Block, _, dst *tensor.Matrix, r0, r1 int, full bool) {
		r.fwd.MLPAct(fb, dst, h.rows(r0, r1, full))
	}); err != nil {
		return err
	}
	// The activations were not kept: they are the widest of all.
	return r.eachBatch(func(r0, r1 int) error {
		act := tensor.New(r1-r0, r.cfg.Intermediate)
		r.fwd.MLPAct(qb, act, h.rows(r0, r1, false))
		r.fwd.MLPOutput(qb, rows(r.quantized, r0, r1), act)
		if r.full != nil {
			r.fwd.MLPAct(b, act, h.rows(r0, r1, true))
			r.fwd.MLPOutput(b, rows(r.full, r0, r1), act)
		}
		return nil
	})
}

// subtract takes y off x.
func subtract(x, y *tensor.Matrix) {
	for i := range x.Rows {
		row := x.Row(i)
		for j, v := range y.Row(i) {
			row[j] -= v
		}
	}
}

// streamPair holds an input of all tokens for the quantized stream and, if
// there is one, the full-precision stream.
type streamPair struct{ quantized, full *tensor.Matrix }

func (s *streamPair) resize(r *blockRun, width int) {
	s.quantized = tensor.New(r.text.tokens(), width)
	if r.full != nil {
		s.full = tensor.New(r.text.tokens(), width)
	}
}

func (s *streamPair) batch(r0, r1 int) (quantized, full *tensor.Matrix) {
	if s.full != nil {
		full = rows(s.full, r0, r1)
	}
	return rows(s.quantized, r0, r1), full
}

func (s *streamPair) rows(r0, r1 int, full bool) *tensor.Matrix {
	if full {
		return rows(s.full, r0, r1)
	}
	return rows(s.quantized, r0, r1)
}
