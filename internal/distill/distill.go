// Package distill tunes a quantized model as a whole: its group scales, and if wanted
// its codes, go down the gradient of the Kullback-Leibler divergence of its predictions
// from those of the unquantized model.
package distill

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// BatchTokens is about how many a step looks at.
const BatchTokens = 2048

// Options are how a Student is tuned.
type Options struct {
	Steps int
	// Seen is called after steps whose result was measured on the windows held out,
	// beginning with 0: its divergence, in nats a token.
	Seen func(step int, kl float64)
	// Step is called after every step.
	Step func(step int)
}

// Result is the best that was seen.
type Result struct {
	Weights       map[string]*quant.Weight // by layer; nil if it is what there was
	Step          int                      // after which it was seen
	Before, After float64                  // divergences on the windows held out
}

// tuning is the work.
type tuning struct {
	Options
	teacher, student *walk.Walk
	s                *Student
	head             *decoder.Head
	train, held      []window
	best             *Result
}

// window is text, and what leaves the last block of the unquantized model there.
type window struct {
	ids   []int32
	final *tensor.Matrix
}

// Run tunes s on train and takes what is best on held, windows that nothing is fitted
// to. w runs the unquantized model. What is measured is with scales as they are stored,
// and it is never worse than what there was.
func Run(ctx context.Context, w *walk.Walk, s *Student, train, held [][]int32, o Options) (*Result, error) {
	student := *w
	student.Weights = s
	t := &tuning{Options: o, teacher: w, student: &student, s: s}
	var err error
	if t.head, err = w.Model.LoadHead(w.Weights, nil); err != nil {
		return nil, err
	}
	if t.train, err = t.windows(ctx, train); err != nil {
		return nil, err
	}
	if t.held, err = t.windows(ctx, held); err != nil {
		return nil, err
	}
	before, err := t.measure(ctx)
	if err != nil {
		return nil, err
	}
	t.best = &Result{Before: before, After: before}
	t.Seen(0, before)
	return t.best, t.run(ctx)
}

func (t *tuning) windows(ctx context.Context, all [][]int32) ([]window, error) {
	out := make([]window, len(all))
	err := t.teacher.Final(ctx, all, func(i int, x *tensor.Matrix) error {
		out[i] = window{all[i], x.Clone()}
		return nil
	})
	return out, err
}

func (t *tuning) run(ctx context.Context) error {
	n := min(max(BatchTokens/t.student.SeqLen, 1), len(t.train))
	every := max(5, t.Steps/20)
	rng := rand.New(rand.NewPCG(1, 2))
	var order []int
	for step := 1; step <= t.Steps; step++ {
		if len(order) < n {
			order = append(order, rng.Perm(len(t.train))...)
		}
		if err := t.step(ctx, order[:n], t.rates(step)); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		order = order[n:]
		t.Step(step)
		if step%every == 0 || step == t.Steps {
			if err := t.look(ctx, step); err != nil {
				return err
			}
		}
	}
	return nil
}

// rates rise for a twentieth of the steps and fall with a cosine to nothing: what codes
// change back and forth at their borders settles only as they do.
func (t *tuning) rates(step int) rates {
	scales, codes := 1e-3, 5e-3
	switch {
	case len(t.train)*t.student.SeqLen < t.s.scales():
		scales = 5e-4
	case t.s.bits() <= 2 || !t.s.coded():
		scales = 2e-3
	}
	if t.s.bits() >= 4 || t.best.Before < 0.1 { // little is to be gained, and much to be lost
		codes = 3e-3
	}
	f := (1 + math.Cos(math.Pi*float64(step-1)/float64(t.Steps))) / 2
	if warm := float64(t.Steps) / 20; float64(step) < warm {
		f *= float64(step) / warm
	}
	return rates{newPace(scales*f, step), newPace(codes*f, step)}
}

// step goes down the gradient of some windows.
func (t *tuning) step(ctx context.Context, chosen []int, r rates) error {
	ids := make([][]int32, len(chosen))
	for i, k := range chosen {
		ids[i] = t.train[k].ids
	}
	mean := 1 / float32(len(chosen)*t.student.SeqLen)
	var theirs *tensor.Matrix
	return t.student.Back(ctx, ids, &walk.Backward{
		Inputs: true,
		Loss: func(window, first int, logits, g *tensor.Matrix) {
			theirs = t.logits(theirs, t.train[chosen[window]].final, first, logits.Rows)
			t.student.Runner.Bands(logits.Rows, func(i0, i1 int) {
				for i := i0; i < i1; i++ {
					decoder.KLBack(g.Row(i), theirs.Row(i), logits.Row(i))
					kernel.Scale(g.Row(i), mean)
				}
			})
		},
		Gradient: func(b *program.Block, linear int, x, g *tensor.Matrix) error {
			l := t.s.of(b.Linears[linear])
			if l == nil || g.Rows == 0 {
				return nil
			}
			beta := float32(1)
			if l.grad == nil {
				l.grad, beta = tensor.New(g.Cols, x.Cols), 0
			}
			tensor.Gemm(true, false, 1, g, x, beta, l.grad, t.student.Runner.Workers())
			return nil
		},
		Settle: func(b *program.Block) error {
			for _, info := range b.Linears {
				if l := t.s.of(info); l != nil {
					l.update(r, t.student.Runner.Workers())
				}
			}
			return nil
		},
	})
}

// logits are those of the unquantized model for n tokens of a window from first on, in
// the memory of m if that is large enough.
func (t *tuning) logits(m, final *tensor.Matrix, first, n int) *tensor.Matrix {
	if m == nil || m.Rows < n {
		m = tensor.New(n, t.teacher.Model.Vocab)
	}
	t.head.Logits(t.teacher.Runner, walk.Rows(m, 0, n), walk.Rows(final, first, first+n))
	return m
}

// look measures what has come out so far, and keeps it if it is the best.
func (t *tuning) look(ctx context.Context, step int) error {
	stored := t.s.stored()
	t.s.compute(stored)
	kl, err := t.measure(ctx)
	if err != nil {
		return err
	}
	t.s.compute(nil)
	if kl < t.best.After {
		t.best.Weights, t.best.Step, t.best.After = stored, step, kl
	}
	t.Seen(step, kl)
	return nil
}

// measure is the mean divergence on the windows held out.
func (t *tuning) measure(ctx context.Context) (float64, error) {
	ids := make([][]int32, len(t.held))
	for i, w := range t.held {
		ids[i] = w.ids
	}
	n := t.student.SeqLen
	chunk := walk.LogitsChunk(t.teacher.Model.Vocab, 2, n)
	ours := tensor.New(chunk, t.teacher.Model.Vocab)
	var theirs *tensor.Matrix
	var sum float64
	each := make([]float64, chunk)
	err := t.student.Final(ctx, ids, func(i int, x *tensor.Matrix) error {
		for t0 := 0; t0 < n-1; t0 += chunk { // nothing follows the last
			rows := min(chunk, n-1-t0)
			theirs = t.logits(theirs, t.held[i].final, t0, rows)
			t.head.Logits(t.student.Runner, walk.Rows(ours, 0, rows), walk.Rows(x, t0, t0+rows))
			t.student.Runner.Bands(rows, func(i0, i1 int) {
				for i := i0; i < i1; i++ {
					each[i] = decoder.KL(theirs.Row(i), ours.Row(i))
				}
			})
			for _, v := range each[:rows] {
				sum += v
			}
		}
		return nil
	})
	return sum / float64(len(t.held)*(n-1)), err
}
