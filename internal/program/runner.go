package program

import (
	"context"
	"sync"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/rope"
	"github.com/golowbit/lowbit/tensor"
)

// BatchTokens is about how many tokens go through a block at once: enough that
// products run at full speed, few enough that what is computed stays small.
const BatchTokens = 2048

// Batch is how many rows of windows of seqLen go through a block at once.
func Batch(seqLen int) int { return max(1, BatchTokens/seqLen) * seqLen }

// Runner runs blocks. It holds the memory, which is reused, and the rotary
// tables; a Runner is for one goroutine at a time. Blocks are not changed by it.
type Runner struct {
	// BF16 rounds the inputs and weights of the linear layers of blocks to
	// bfloat16 for their products, whose sums stay in float32, on CPUs that
	// are faster at those (HasBF16); on others it changes nothing. It is
	// meant for models whose weights are bfloat16: those it leaves as they are.
	BF16 bool

	// Inputs, if not nil, returns what the linear layers of blocks are given
	// instead of x [rows, in]: x rounded, say. It may be wider than x where
	// weights are.
	Inputs func(x *tensor.Matrix) *tensor.Matrix

	// Fill is a part of each batch's tokens that go through every expert beside those that
	// are routed to it, evenly spread: only what is seen of its inputs changes, see
	// Frame.Routed. Nothing may go back through such frames.
	Fill float64

	// Heads, if not nil, is shown the attention of every tile of queries before it runs, by
	// all workers at once: s is the worker's, row the frame's where the window begins.
	Heads func(t *nn.Heads, s *nn.Scratch, row int)

	// Spare is how many bytes of memory it keeps for reuse; 0 means any number.
	Spare int64

	workers int
	tables  map[*Rope]*rope.Table
	attn    sync.Pool // of *nn.Scratch
	spare   []*tensor.Matrix
	kept    int64 // bytes of spare
}

// NewRunner returns a Runner. workers is the number of goroutines; 0 means
// GOMAXPROCS.
func NewRunner(workers int) *Runner {
	return &Runner{workers: parallel.Workers(workers), tables: map[*Rope]*rope.Table{}}
}

// table returns the table of a rotation for sequences of a length.
func (r *Runner) table(of *Rope, seqLen int) *rope.Table {
	t := of.For(seqLen, r.tables[of])
	r.tables[of] = t
	return t
}

// HasBF16 tells whether Runner.BF16 has an effect on this machine.
func HasBF16() bool { return kernel.HasBF16() }

// Workers returns the number of goroutines in use.
func (r *Runner) Workers() int { return r.workers }

// each calls f for every i below n, in any order, on all workers.
func (r *Runner) each(n int, f func(i int)) {
	_ = parallel.For(context.Background(), r.workers, n, func(i int) error {
		f(i)
		return nil
	})
}

// Bands calls f for bands of rows that together are 0 to n.
func (r *Runner) Bands(n int, f func(i0, i1 int)) {
	const band = 32
	r.each((n+band-1)/band, func(b int) { f(b*band, min((b+1)*band, n)) })
}

// Matrix returns memory, its content undefined.
func (r *Runner) Matrix(rows, cols int) *tensor.Matrix {
	n := rows * cols
	best := -1
	for i, m := range r.spare {
		if c := cap(m.Data); c >= n && (best < 0 || c < cap(r.spare[best].Data)) {
			best = i
		}
	}
	// A matrix four times as large is kept for others.
	if best < 0 || cap(r.spare[best].Data) > 4*n+1<<12 {
		return tensor.New(rows, cols)
	}
	m := r.spare[best]
	last := len(r.spare) - 1
	r.spare[best] = r.spare[last]
	r.spare[last] = nil
	r.spare = r.spare[:last]
	r.kept -= 4 * int64(cap(m.Data))
	m.Rows, m.Cols, m.Stride, m.Data = rows, cols, cols, m.Data[:n]
	return m
}

// Release takes back the memory of a matrix, which may be nil.
func (r *Runner) Release(m *tensor.Matrix) {
	const most = 32
	if m == nil || len(r.spare) >= most {
		return
	}
	if n := 4 * int64(cap(m.Data)); r.Spare == 0 || r.kept+n <= r.Spare {
		r.spare = append(r.spare, m)
		r.kept += n
	}
}

// Forget gives all memory that is kept for reuse to the garbage collector.
func (r *Runner) Forget() { r.spare, r.kept = nil, 0 }

// Frame is a batch of tokens on its way through a block.
type Frame struct {
	// X is the residual stream [rows, hidden], changed in place.
	X *tensor.Matrix

	p      *Program
	seqLen int
	pc     int // the next operation
	regs   []*tensor.Matrix
	mine   []bool // whose memory this frame gives back
	wrote  []bool // what has changed since it entered the frame
	routes []*routing
	past   *Past // nil where windows are whole
}

// NewFrame puts a batch at the beginning of a block: x [rows, hidden] holds
// whole windows of seqLen rows.
func (p *Program) NewFrame(x *tensor.Matrix, seqLen int) *Frame {
	if seqLen < 1 || x.Rows%seqLen != 0 {
		panic("program: rows are not whole windows")
	}
	if x.Cols != p.regs[Stream].width {
		panic("program: stream of the wrong width")
	}
	n := len(p.regs)
	return &Frame{X: x, p: p, seqLen: seqLen, regs: make([]*tensor.Matrix, n), mine: make([]bool, n), wrote: make([]bool, n)}
}

// Input returns what the frame holds of a stage: [rows, width], or fewer rows
// for an expert's. The frame must be there.
func (f *Frame) Input(s *Stage) *tensor.Matrix {
	if s.reg == Stream {
		return f.X
	}
	return f.regs[s.reg]
}

// Routed returns the rows of Input that are there without Runner.Fill, and the others.
func (f *Frame) Routed(s *Stage) (own, filled *tensor.Matrix) {
	x := f.Input(s)
	n := x.Rows
	if s.reg != Stream {
		if d := f.p.regs[s.reg]; d.router >= 0 {
			n = len(f.routes[d.router].weights[d.expert])
		}
	}
	return x.View(0, n, 0, x.Cols), x.View(n, x.Rows, 0, x.Cols)
}

// fork returns a frame that goes on from f without changing it in the
// operations up to `to`. x takes the place of the stream.
func (f *Frame) fork(r *Runner, x *tensor.Matrix, to int) *Frame {
	g := f.p.NewFrame(x, f.seqLen)
	g.pc, g.routes = f.pc, append([]*routing(nil), f.routes...)
	copy(g.regs, f.regs)
	for i := f.pc; i < to; i++ {
		for _, w := range f.p.ops[i].writes() {
			if w != Stream && g.regs[w] != nil && !g.mine[w] {
				m := r.Matrix(g.regs[w].Rows, g.regs[w].Cols)
				m.CopyFrom(g.regs[w])
				g.regs[w], g.mine[w] = m, true
			}
		}
	}
	return g
}

// ToStage brings the frame to a stage of the block and returns the frame that
// holds it: f itself, or if the stage is cheaper computed again than kept, a
// frame beside it, which the caller gives to Done. Stages are visited in order.
func (r *Runner) ToStage(b *Block, f *Frame, stage int) *Frame {
	s := &f.p.Stages[stage]
	if s.Recompute {
		r.run(b, f, s.from) // where stages before were passed by
		f = f.fork(r, f.X, s.at)
	}
	r.run(b, f, s.at)
	return f
}

// Done gives back the memory of a frame.
func (r *Runner) Done(f *Frame) {
	for i, m := range f.regs {
		if f.mine[i] {
			r.Release(m)
		}
		f.regs[i], f.mine[i] = nil, false
	}
}

// Finish runs the rest of the block: afterwards X is what leaves it.
func (r *Runner) Finish(b *Block, f *Frame) {
	r.run(b, f, len(f.p.ops))
	r.Done(f)
}

// Effect returns what the linears of a stage add to the residual stream, and
// what comes with them: the difference of the stream up to the first operation
// after the stage that changes it. f holds the stage and stays as it is.
func (r *Runner) Effect(b *Block, f *Frame, stage int) *tensor.Matrix {
	x := f.X.Clone()
	r.effect(b, f, x, stage)
	for i := range x.Rows {
		before := f.X.Row(i)
		for j, v := range x.Row(i) {
			x.Data[i*x.Stride+j] = v - before[j]
		}
	}
	return x
}

// EffectAlone is Effect on a stream of zeros, without the rounding of a
// difference, where the stage is not the stream itself.
func (r *Runner) EffectAlone(b *Block, f *Frame, stage int) *tensor.Matrix {
	if f.p.Stages[stage].reg == Stream {
		return r.Effect(b, f, stage)
	}
	x := tensor.New(f.X.Rows, f.X.Cols)
	r.effect(b, f, x, stage)
	return x
}

func (r *Runner) effect(b *Block, f *Frame, x *tensor.Matrix, stage int) {
	to := f.p.Stages[stage].added
	g := f.fork(r, x, to)
	r.run(b, g, to)
	r.Done(g)
}

// Keep returns a frame that stays at a stage, for EffectAlone, while f goes on.
func (r *Runner) Keep(f *Frame, stage int) *Frame {
	x := &tensor.Matrix{Rows: f.X.Rows, Cols: f.X.Cols} // only its shape matters
	if f.p.Stages[stage].reg == Stream {
		x = f.X.Clone()
	}
	g := f.p.NewFrame(x, f.seqLen)
	g.pc, g.routes = f.pc, append([]*routing(nil), f.routes...)
	for i, m := range f.regs {
		if m != nil && f.p.live(Reg(i), f.pc) {
			g.regs[i] = m.Clone()
		}
	}
	return g
}

// run runs the operations before `to`.
func (r *Runner) run(b *Block, f *Frame, to int) {
	x := &exec{r, b, f}
	for ; f.pc < to; f.pc++ {
		f.p.ops[f.pc].run(x)
		for _, g := range f.p.ops[f.pc].writes() {
			f.wrote[g] = true
		}
		for _, g := range f.p.free[f.pc] {
			if f.mine[g] {
				r.Release(f.regs[g])
			}
			f.regs[g], f.mine[g] = nil, false
		}
	}
}

// exec is what an operation works on.
type exec struct {
	r *Runner
	b *Block
	f *Frame
}

// reg is the content of a register.
func (x *exec) reg(g Reg) *tensor.Matrix {
	if g == Stream {
		return x.f.X
	}
	return x.f.regs[g]
}

// write is a register to be written: what it holds, or new memory.
func (x *exec) write(g Reg) *tensor.Matrix {
	if g == Stream {
		return x.f.X
	}
	if x.f.regs[g] == nil {
		d := x.f.p.regs[g]
		rows := x.f.X.Rows
		if d.router >= 0 {
			rows = len(x.f.routes[d.router].rows[d.expert])
		}
		x.f.regs[g], x.f.mine[g] = x.r.Matrix(rows, d.width), true
	}
	return x.f.regs[g]
}

func (x *exec) vector(i int) []float32 {
	if i < 0 || x.b.params[i] == nil {
		return nil
	}
	return x.b.params[i].Data
}

// rows calls f for every row below n.
func (x *exec) rows(n int, f func(i int)) {
	x.r.Bands(n, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			f(i)
		}
	})
}

// Observer is shown a stage's input [rows, width], valid only during the call
// and not to be changed.
type Observer func(stage int, f *Frame) error

// Forward runs the block on x [rows, hidden], whole windows of seqLen rows, in
// place, in one batch. observe, if not nil, sees every stage with the frame
// that holds it. After an error x is part done.
func (r *Runner) Forward(b *Block, x *tensor.Matrix, seqLen int, observe Observer) error {
	f := b.Program.NewFrame(x, seqLen)
	defer r.Done(f)
	if observe != nil {
		if err := r.observe(b, f, observe); err != nil {
			return err
		}
	}
	r.run(b, f, len(b.Program.ops))
	return nil
}

// Observe is Forward as far as the last stage: what the block makes of x is not
// wanted. Afterwards x is part done.
func (r *Runner) Observe(b *Block, x *tensor.Matrix, seqLen int, observe Observer) error {
	f := b.Program.NewFrame(x, seqLen)
	defer r.Done(f)
	return r.observe(b, f, observe)
}

func (r *Runner) observe(b *Block, f *Frame, observe Observer) error {
	for s := range b.Program.Stages {
		// In one pass nothing is computed twice.
		r.run(b, f, b.Program.Stages[s].at)
		if err := observe(s, f); err != nil {
			return err
		}
	}
	return nil
}
