// Package curvature measures how a model's loss bends at the outputs of its linear
// layers: for each the second moments of the gradients there. With them an error of a
// weight is judged by what it costs the model instead of the layer.
package curvature

import (
	"context"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/shared"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// Most is how much more than the median token of its window a token may count.
const Most = 4

// Moments are what Collect finds, kept in a Store: by the name of a layer the mean of
// g gᵀ over tokens, [out, out].
type Moments struct {
	store  *streams.Store
	pieces map[string]*streams.Piece
	names  []string     // that were collected, in the model's order
	runs   *shared.Runs // what other runs have found, and this one for them
	text   string
	// Kept is, by layer, how much of what is beside the diagonal is kept.
	Kept map[string]float64
}

func newMoments(w *walk.Walk) *Moments {
	return &Moments{store: w.Store, pieces: map[string]*streams.Piece{}, Kept: map[string]float64{}}
}

// Collect runs windows through the model and back. The loss at each token but the last
// of a window is the negative log-likelihood of an id that is drawn from the model's own
// prediction: then the mean of g gᵀ is the Fisher information at the layer's output, and
// to second order the KL divergence that an error of the output causes. The draw depends
// on window and token alone.
//
// The mean is weighted: each token by its leverage xᵀ H⁻¹ x, x the layer's input and H the
// second moments of all. Given H, O is then what is likeliest of a curvature O ⊗ H of the
// weight (the maximum of likelihood for a Kronecker product; Dutilleul 1999), tokens taken
// as independent. Tokens of experts count the same.
//
// In real models single tokens, attention sinks above all, have gradients so large that
// they alone would be g gᵀ. So a token counts at most as if its weighted |g|² were Most
// times the median of its window. And what lies beside the diagonal is shrunk as far as
// the even and the odd windows disagree about it.
//
// Only layers that wants names are collected, and of these only what no other run has
// (see shared.Runs). The model must be walk.Reversible.
func Collect(ctx context.Context, w *walk.Walk, windows [][]int32, wants func(name string) bool, step func(done, total int)) (*Moments, error) {
	m := newMoments(w)
	if m.runs = shared.Of(ctx); m.runs != nil {
		m.text = shared.Text(w, windows) + "curvature "
		all := wants
		wants = func(name string) bool { return all(name) && !m.runs.Has(m.text+name) }
	}
	for _, l := range w.Model.Linears() {
		if wants(l.Name) {
			m.names = append(m.names, l.Name)
		}
	}
	first := firstBlock(w.Model, wants)
	if first == w.Model.Layers {
		return m, nil
	}
	c := &collector{w: w, m: m, wants: wants}
	err := w.Back(ctx, windows, &walk.Backward{
		First: first, Inputs: true, Loss: c.loss, Begin: c.begin, Gradient: c.gradient, Settle: c.settle, Step: step,
	})
	if err != nil {
		m.Drop()
		return nil, err
	}
	return m, nil
}

// Of is the curvature at the outputs of a layer, nil if there is none. It is read once.
func (m *Moments) Of(name string) (*tensor.Matrix, error) {
	if m == nil {
		return nil, nil
	}
	p := m.pieces[name]
	if p == nil {
		all, err := m.runs.Get(m.text + name)
		if len(all) == 0 {
			return nil, err
		}
		return all[0], nil
	}
	delete(m.pieces, name)
	o, err := m.store.Load(p)
	if err == nil {
		m.store.Drop(p)
	}
	return o, err
}

// Drop gives up what was not read.
func (m *Moments) Drop() {
	for _, p := range m.pieces {
		m.store.Drop(p)
	}
	m.pieces = nil
}

// collector is the work on one block at a time.
type collector struct {
	w     *walk.Walk
	m     *Moments
	wants func(name string) bool
	sums  map[int]*[2]*tensor.Matrix // by linear, of even and of odd windows
	seen  map[int]int                // tokens, by linear
	shown map[int]int                // batches, by linear
	lever *leverages
}

// begin is walk.Backward.Begin.
func (c *collector) begin(ctx context.Context, b *program.Block, x *walk.Residual) (err error) {
	c.sums, c.seen, c.shown = map[int]*[2]*tensor.Matrix{}, map[int]int{}, map[int]int{}
	c.lever, err = newLeverages(ctx, c.w, b, x, c.wants)
	return err
}

// loss is walk.Backward.Loss.
func (c *collector) loss(window, first int, logits, g *tensor.Matrix) {
	sampled(c.w, window, first, logits, g)
}

// gradient is walk.Backward.Gradient.
func (c *collector) gradient(b *program.Block, linear int, x, g *tensor.Matrix) error {
	l := &b.Linears[linear]
	if !c.wants(l.Name) || g.Rows == 0 {
		return nil
	}
	s := c.sums[linear]
	if s == nil {
		s = &[2]*tensor.Matrix{tensor.New(l.Out, l.Out), tensor.New(l.Out, l.Out)}
		c.sums[linear] = s
	}
	window := c.w.SeqLen
	if l.Expert >= 0 { // some tokens of all windows of the batch
		window = (g.Rows + 1) / 2
	}
	weights := c.lever.of(c.w, l.Stage, c.shown[linear], x)
	half := 0
	for r0 := 0; r0 < g.Rows; r0 += window {
		part := c.w.Runner.Matrix(min(window, g.Rows-r0), g.Cols)
		part.CopyFrom(walk.Rows(g, r0, r0+part.Rows))
		if weights == nil {
			level(part, nil)
		} else {
			level(part, weights[r0:r0+part.Rows])
		}
		tensor.SyrkT(part, s[half], c.w.Runner.Workers())
		half = 1 - half
		c.w.Runner.Release(part)
	}
	c.seen[linear] += g.Rows
	c.shown[linear]++
	return nil
}

// level multiplies the rows of a window by the roots of their weights, if there are any,
// and scales those down whose squared length is then more than Most times the median of
// those that have any.
func level(x *tensor.Matrix, weights []float64) {
	size := make([]float64, x.Rows)
	var some []float64
	for i := range size {
		for _, v := range x.Row(i) {
			size[i] += float64(v) * float64(v)
		}
		if weights != nil {
			size[i] *= weights[i]
		}
		if size[i] > 0 {
			some = append(some, size[i])
		}
	}
	if len(some) == 0 {
		return
	}
	slices.Sort(some)
	most := Most * some[len(some)/2]
	for i, n := range size {
		f := 1.0
		if weights != nil {
			f = weights[i]
		}
		if n > most {
			f *= most / n
		}
		if f != 1 {
			kernel.Scale(x.Row(i), float32(math.Sqrt(f)))
		}
	}
}

// settle is walk.Backward.Settle.
func (c *collector) settle(b *program.Block) error {
	for i := range b.Linears {
		s := c.sums[i]
		if s == nil {
			continue
		}
		name := b.Linears[i].Name
		o, kept := combined(s, float32(1/float64(c.seen[i])))
		c.m.Kept[name] = kept
		c.m.runs.Put(c.m.text+name, o)
		p, err := c.w.Store.Put(o)
		if err != nil {
			return err
		}
		c.m.pieces[name] = p
	}
	c.sums, c.lever = nil, nil
	return nil
}

// combined is the sum of both halves' lower triangles times f, in the memory of the
// first, both triangles filled, what is beside the diagonal shrunk. Of a half a, the
// multiple of it that is nearest to the other half b is (a·b)/(a·a); twice the tokens
// halve the noise that keeps it from 1.
func combined(s *[2]*tensor.Matrix, f float32) (o *tensor.Matrix, kept float64) {
	a, b := s[0], s[1]
	var both, own float64
	for i := range a.Rows {
		x, y := a.Row(i)[:i], b.Row(i)[:i]
		for j, v := range x {
			both += float64(v) * float64(y[j])
			own += (float64(v)*float64(v) + float64(y[j])*float64(y[j])) / 2
		}
	}
	if both > 0 && own > 0 {
		r := min(both/own, 1)
		kept = 2 * r / (1 + r)
	}
	for i := range a.Rows {
		x, y := a.Row(i)[:i+1], b.Row(i)
		for j := range x {
			x[j] = (x[j] + y[j]) * f
			if j < i {
				x[j] *= float32(kept)
			}
		}
	}
	tensor.Mirror(a)
	return a, kept
}
