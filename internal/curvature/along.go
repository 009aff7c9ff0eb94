package curvature

import (
	"context"
	"math/rand/v2"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// samples is how many windows Along runs back through the model at least, mostly windows of
// the same text with other draws, times most that it may take of each.
const (
	samples   = 64
	mostDraws = 4
)

// Along measures what errors of single layers cost the model: by the name of the layer, to
// second order and in nats a token, the KL divergence from the model that its weight plus
// errorOf(name), [out, in], would cause. errorOf is asked for the layers that wants names,
// once for all that goes through their block; nil is no error.
//
// With labels drawn from the model's own prediction, the divergence summed over a window is
// half the mean of s², s the derivative of the window's negative log-likelihood along the
// error: the sum over tokens of g·(E x). Unlike Moments that supposes nothing about inputs
// and gradients (whose largest belong to the same few tokens), and tells no more than this
// one number. Its standard error is that of a mean of squares of as many samples as there
// are windows; of few windows several draws are taken.
func Along(ctx context.Context, w *walk.Walk, windows [][]int32, wants func(name string) bool, errorOf func(name string) (*tensor.Matrix, error), step func(done, total int)) (map[string]float64, error) {
	a := &along{w: w, wants: wants, errorOf: errorOf, sums: map[string]float64{}}
	first := firstBlock(w.Model, wants)
	if first == w.Model.Layers || len(windows) == 0 {
		return a.sums, nil
	}
	draws := min(mostDraws, (samples+len(windows)-1)/len(windows))
	for draw := range draws {
		v := &walk.Backward{First: first, Inputs: true, Gradient: a.gradient, Settle: a.settle, Loss: func(window, first int, logits, g *tensor.Matrix) {
			sampled(w, draw*len(windows)+window, first, logits, g)
		}}
		if step != nil {
			v.Step = func(done, total int) { step(draw*total+done, draws*total) }
		}
		if err := w.Back(ctx, windows, v); err != nil {
			return nil, err
		}
	}
	tokens := draws * len(windows) * w.SeqLen
	for name := range a.sums {
		a.sums[name] /= float64(2 * tokens)
	}
	return a.sums, nil
}

// along is the work of Along.
type along struct {
	w       *walk.Walk
	wants   func(string) bool
	errorOf func(string) (*tensor.Matrix, error)
	sums    map[string]float64 // of s²
	errors  map[string]*tensor.Matrix
}

// settle is walk.Backward.Settle.
func (a *along) settle(*program.Block) error {
	a.errors = nil
	return nil
}

// errorAt is the error of a layer, asked for once in a block.
func (a *along) errorAt(name string) (*tensor.Matrix, error) {
	if e, there := a.errors[name]; there {
		return e, nil
	}
	e, err := a.errorOf(name)
	if err != nil {
		return nil, err
	}
	if a.errors == nil {
		a.errors = map[string]*tensor.Matrix{}
	}
	a.errors[name] = e
	return e, nil
}

// gradient is walk.Backward.Gradient. Of an expert, whose tokens are of all windows of the
// batch, these make one sample: the mean is the same.
func (a *along) gradient(b *program.Block, linear int, x, g *tensor.Matrix) error {
	l := &b.Linears[linear]
	if !a.wants(l.Name) || g.Rows == 0 {
		return nil
	}
	e, err := a.errorAt(l.Name)
	if err != nil || e == nil {
		return err
	}
	window := a.w.SeqLen
	if l.Expert >= 0 {
		window = g.Rows
	}
	y := a.w.Runner.Matrix(window, g.Cols)
	defer a.w.Runner.Release(y)
	for r0 := 0; r0 < g.Rows; r0 += window {
		r1 := min(r0+window, g.Rows)
		out := y.View(0, r1-r0, 0, g.Cols)
		tensor.Gemm(false, true, 1, walk.Rows(x, r0, r1), e, 0, out, a.w.Runner.Workers())
		var s float64
		for r := range out.Rows {
			grad := g.Row(r0 + r)
			for i, v := range out.Row(r) {
				s += float64(v) * float64(grad[i])
			}
		}
		a.sums[l.Name] += s * s
	}
	return nil
}

// firstBlock is the first block with a wanted layer, or how many blocks there are.
func firstBlock(m *decoder.Model, wants func(string) bool) int {
	for i, p := range m.Blocks {
		for _, l := range p.Linears {
			if wants(l.Name) {
				return i
			}
		}
	}
	return m.Layers
}

// sampled writes the gradient of the loss at logits of a window: the negative
// log-likelihood of ids that are drawn from the model's own prediction. The draw depends
// on sample and token alone.
func sampled(w *walk.Walk, sample, first int, logits, g *tensor.Matrix) {
	w.Runner.Bands(logits.Rows, func(i0, i1 int) {
		for i := i0; i < i1; i++ {
			t := first + i
			if t == w.SeqLen-1 { // as in the text, nothing follows
				clear(g.Row(i))
				continue
			}
			rng := rand.New(rand.NewPCG(uint64(sample), uint64(t)))
			decoder.NLLBack(g.Row(i), logits.Row(i), decoder.Sample(logits.Row(i), rng))
		}
	})
}
