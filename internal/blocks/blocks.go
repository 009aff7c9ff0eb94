// Package blocks takes text through a model block by block and has every linear layer
// quantized on what it sees there. How a layer is quantized, and where that is kept, is
// not its business: see Layers.
package blocks

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/golowbit/lowbit/internal/curvature"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/held"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Layers quantizes layers and keeps what was made.
type Layers interface {
	// Pending reports whether a layer is still to be quantized.
	Pending(name string) bool
	// Quantize quantizes a layer, or takes up what an interrupted run has made of it. It
	// returns nil if the layer stays dense.
	Quantize(ctx context.Context, t Task) (*quant.Weight, error)
	// Settle ends a layer that needs no text any more.
	Settle(name string) error
	// Correct returns weights, the unquantized ones of linears that read a stage, as
	// they make up for the layers before (see gptq.Correct), and the statistics to
	// quantize them with: scale applied to those of c.
	Correct(weights []*tensor.Matrix, c *quant.Collector, scale func(*quant.Calibration) *quant.Calibration) ([]*tensor.Matrix, *quant.Calibration, error)
	// Folding is how scales that are folded are searched for in a block.
	Folding(b *program.Block) *fold.Search
	// Fold keeps gains and biases with scales folded into them, by name of the tensor,
	// and a note on the scale of each layer's input.
	Fold(stored map[string][]float32, notes map[string]string) error
	// Note keeps what was decided for a resumed run, which finds it by Noted.
	Note(key string, data []byte) error
	Noted(key string) (data []byte, ok bool)
}

// Task is a layer to be quantized.
type Task struct {
	Name        string
	Weight      *tensor.Matrix     // [out, in], with the scales that are folded
	Target      *tensor.Matrix     // what to quantize in its place: it makes up for the layers before
	Calibration *quant.Calibration // nil if the layer is not Pending
	// Routed is how many tokens of the text were routed to the expert that the layer is of;
	// -1 for other layers and those that are not Pending.
	Routed int
	// Pooled says that the statistics are those of other tokens of the text alone.
	Pooled bool
	// BlockLoss is that of adadim.Layer; nil unless Options ask for it.
	BlockLoss func(ctx context.Context, approx *tensor.Matrix) (float64, error)
}

// Tokens is Routed for a report, nil if that says nothing.
func (t *Task) Tokens() *int {
	if t.Routed < 0 {
		return nil
	}
	n := t.Routed // not a pointer into the task, which a report would keep
	return &n
}

// Rounded says why a layer is rounded to nearest.
func (t *Task) Rounded() string {
	if t.Pooled {
		return "no token of the text was routed to it: rounded to nearest, as other tokens of its layer weigh errors"
	}
	return "no token of the text reached it: rounded to nearest"
}

// Options are what decides how the text is taken through the model.
type Options struct {
	// Full shows every block what it sees in the unquantized model; otherwise layers see
	// what the quantized ones before them make of the text.
	Full bool
	// Paired compares the two, for Layers.Correct.
	Paired    bool
	BlockLoss bool // see Task
	// Curvature passes the text through the model and back beforehand, and tells the
	// curvature at the outputs of every layer.
	Curvature bool
	Squares   bool // the sums of the squares of inputs are kept; see EachSquares
	// Shrink takes out of the statistics what few tokens say by chance.
	Shrink bool
	// Pool lets other tokens count among those of an expert that few reach; see experts.
	Pool bool
	// RouteAll has every expert see all tokens; what is computed stays as it is.
	RouteAll bool
	Folds    [][]bool // by block and stage: scales of its input are searched for and folded
	// ScaleInput and ScaleOutput are adadim.ScaleCalibration and adadim.ScaleOutput.
	ScaleInput  func(cal *quant.Calibration, factor []float32) *quant.Calibration
	ScaleOutput func(o *tensor.Matrix, factor []float32) *tensor.Matrix
	Statistics  int64 // see memory.Plan
	Workers     int
	Keeper      Keeper // nil: a resumed run begins anew with the text
	// Made reads a layer that was quantized, for walks with weights that are held.
	Made  func(name string) (*quant.Weight, error)
	Team  *Team // nil if no other part works on this
	Chunk int   // tokens, for tests; 0 is ChunkTokens

	Begin    func(block int)                     // called before a block
	Curving  func(done, total int)               // called while curvature is collected
	Overflow func(layer string, largest float32) // called once, of inputs that half floats do not hold; nil if that does not matter
}

// run is the work on a model's blocks, one after another.
type run struct {
	Options
	layers Layers
	walk   *walk.Walk

	// Residual streams of all calibration windows: full is that of the
	// unquantized model, quantized what the quantized layers so far make of it.
	// With Full the latter is nil; otherwise the former, unless Paired.
	full, quantized *walk.Residual

	kept  time.Time      // when the streams were last kept
	block *program.Block // unquantized
	qb    *program.Block // the same, quantized as far as it goes

	// scales are what is folded in the block. Both blocks above are without
	// them: layers are scaled when they are quantized, and back afterwards.
	scales *fold.Scales
	refs   []*walk.Reference // by stage, with BlockLoss

	chunks   []int // windows of each, of all the text
	from, to int   // the chunks of this part

	few     experts
	alike   alike
	last    bool               // no block behind this one needs the text
	moments *curvature.Moments // at outputs of layers, nil without Curvature
	clock   *phases.Clock
}

// Run takes windows of text through the model of w and has all its linear layers
// quantized.
func Run(ctx context.Context, w *walk.Walk, windows [][]int32, layers Layers, o Options) error {
	r := &run{Options: o, layers: layers, walk: w, clock: phases.Of(ctx)}
	if o.Curvature {
		if err := r.collect(ctx, windows); err != nil {
			return err
		}
	}
	r.few.begin(r, windows)
	windows = r.divide(windows)
	r.alike.look(ctx, r, windows)
	n, first := r.needed(), 0
	if n > 0 && !r.alike.all {
		var err error
		if first, err = r.start(ctx, windows); err != nil {
			return err
		}
	}
	return r.all(ctx, first, n)
}

// all works on the blocks [first, n), which need the text, and ends what lies behind.
func (r *run) all(ctx context.Context, first, n int) error {
	err := r.walk.Between(ctx, first, n, func(b *program.Block) error {
		r.Begin(b.Index)
		r.block, r.qb, r.scales, r.last = b, b.Clone(), nil, b.Index+1 == n
		r.refs = make([]*walk.Reference, len(b.Stages))
		r.few.block(len(b.Stages))
		memory.Collect(b.Bytes()) // the block before
		if err := errors.Join(r.follow(ctx, b.Index-2), r.look(b.Program)); err != nil {
			return err
		}
		quantize := r.runStaged
		if r.Full {
			quantize = r.runFull
		}
		if err := quantize(ctx); err != nil || r.last {
			return err
		}
		return r.keep(ctx, b.Index+1)
	})
	if err == nil && r.Keeper != nil {
		err = errors.Join(r.Keeper.DropKept(KeptStreams, nil), r.Keeper.DropKept(KeptCurvature, nil))
	}
	if err != nil {
		return err
	}
	// The rest stays dense or was quantized by an earlier run: nothing there
	// needs the text.
	for _, b := range r.walk.Model.Blocks[n:] {
		if err := r.settle(b); err != nil {
			return err
		}
	}
	return nil
}

// needed is how many blocks the text goes through: up to the last one with a layer
// still to be quantized.
func (r *run) needed() int {
	blocks := r.walk.Model.Blocks
	for i := len(blocks) - 1; i >= 0; i-- {
		for _, l := range blocks[i].Linears {
			if r.layers.Pending(l.Name) {
				return i + 1
			}
		}
	}
	return 0
}

// pending reports whether any layer that reads a stage is still to be done.
func (r *run) pending(stage int) bool {
	for _, i := range r.block.Stages[stage].Linears {
		if r.layers.Pending(r.block.Linears[i].Name) {
			return true
		}
	}
	return false
}

// folds reports whether any scale is folded in the block.
func (r *run) folds() bool { return slices.Contains(r.Folds[r.block.Index], true) }

// layer has one linear quantized, or what is to take its place (see Layers.Correct), and
// puts the result into the quantized block.
func (r *run) layer(ctx context.Context, linear int, cal *quant.Calibration, target *tensor.Matrix) error {
	l := r.block.Linears[linear]
	if !r.mine(l.Name) && r.layers.Pending(l.Name) {
		if r.Full {
			return nil
		}
		if err := r.await(ctx, l.Name); err != nil {
			return err
		}
	}
	w, err := r.block.Linear(linear).Weight, error(nil)
	if r.layers.Pending(l.Name) {
		if w, err = held.Matrix(r.block.Linear(linear)); err != nil {
			return err
		}
	}
	w = r.scales.Weight(linear, w)
	if target == nil {
		target = w
	}
	t := Task{Name: l.Name, Weight: w, Target: target, Routed: -1}
	if r.layers.Pending(l.Name) && r.block.Stages[l.Stage].Expert >= 0 {
		t.Routed = r.few.routed[l.Stage]
		t.Pooled = t.Routed == 0 && r.Pool && !r.RouteAll && cal != nil
	}
	if r.layers.Pending(l.Name) {
		if t.Calibration, err = r.curved(linear, cal); err != nil {
			return err
		}
		t.BlockLoss = r.blockLoss(linear, w, cal)
	}
	q, err := r.layers.Quantize(ctx, t)
	if err != nil || q == nil {
		return err
	}
	if !r.Full {
		r.replace(linear, q)
	}
	memory.Collect(4 * int64(l.In) * int64(l.In))
	return nil
}

// replace puts a quantized layer into the quantized block.
func (r *run) replace(linear int, q *quant.Weight) {
	to, m := r.qb.Linear(linear), r.scales.Restore(linear, q.Dequantize())
	h, ok := held.Of(to)
	if !ok {
		to.Weight = m
		return
	}
	scales, name := r.scales, r.block.Linears[linear].Name
	to.Product = h.Replaced(m, func() (*tensor.Matrix, error) {
		q, err := r.Made(name)
		if err != nil {
			return nil, err
		}
		return scales.Restore(linear, q.Dequantize()), nil
	})
}

// inOrder are linears with this part's own first: others wait for those.
func (r *run) inOrder(linears []int) []int {
	mine := func(i int) bool { return r.mine(r.block.Linears[i].Name) }
	other := func(i int) bool { return !mine(i) }
	return slices.Concat(slices.DeleteFunc(slices.Clone(linears), other), slices.DeleteFunc(slices.Clone(linears), mine))
}

// shrink does it to the statistics of a stage, if that is asked for.
func (r *run) shrink(stage int, cal *quant.Calibration) {
	if cal == nil {
		return
	}
	r.few.count(r, stage, cal)
	if r.Shrink {
		cal.Shrink()
	}
}

// curved is the statistics of a linear's inputs with the curvature at its outputs, as it
// is with what is folded into its rows.
func (r *run) curved(linear int, cal *quant.Calibration) (*quant.Calibration, error) {
	if r.moments == nil || cal == nil {
		return cal, nil
	}
	o, err := r.moments.Of(r.block.Linears[linear].Name)
	if err != nil || o == nil {
		return cal, err
	}
	if rows := r.scales.Output(linear); rows != nil {
		back := make([]float32, len(rows))
		for i, f := range rows {
			back[i] = 1 / f
		}
		o = r.ScaleOutput(o, back)
	}
	return cal.WithOutput(o), nil
}
