package curvature

import (
	"context"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// apartTokens is how much of the text Apart takes: a divergence is no estimate with a
// chance of its own, but for the text.
const apartTokens = 2048

// Apart measures what Along does for models through which no gradient goes back: the KL
// divergence of the model with the error of one layer from the model, in nats a token.
// The text goes on from the layer to the end once for each layer, so that a model of n
// layers takes n/2 passes of a part of it. The experts of a block, of which there are too
// many, have their errors together, and what that costs is divided by share.
func Apart(ctx context.Context, w *walk.Walk, windows [][]int32, wants func(name string) bool, errorOf func(name string) (*tensor.Matrix, error), share func(name string) float64, step func(done, total int)) (costs map[string]float64, err error) {
	a := &apart{w: w, windows: spread(windows, max(1, apartTokens/max(1, w.SeqLen))), wants: wants, errorOf: errorOf}
	for _, b := range w.Model.Blocks {
		a.total += len(a.units(b)) + 1
	}
	a.step = func() {
		if a.done++; step != nil {
			step(a.done, a.total)
		}
	}
	defer func() {
		for _, s := range append(a.streams, stream{x: a.base}) {
			w.Drop(s.x)
		}
	}()
	if len(a.windows) == 0 {
		return map[string]float64{}, nil
	}
	all, err := w.Start(ctx, a.windows, 1)
	if err != nil {
		return nil, err
	}
	a.base = all[0]
	if err := w.Blocks(ctx, w.Model.Layers, func(b *program.Block) error { return a.block(ctx, b) }); err != nil {
		return nil, err
	}
	w.Runner.Forget()
	return a.costs(ctx, share)
}

// spread takes n windows from all over the text.
func spread(windows [][]int32, n int) [][]int32 {
	if len(windows) <= n {
		return windows
	}
	part := make([][]int32, n)
	for i := range part {
		part[i] = windows[i*len(windows)/n]
	}
	return part
}

// apart is the work of Apart.
type apart struct {
	w       *walk.Walk
	windows [][]int32
	wants   func(string) bool
	errorOf func(string) (*tensor.Matrix, error)
	base    *walk.Residual // of the model as it is
	streams []stream

	done, total int
	step        func()
}

// stream is the text behind layers with their errors.
type stream struct {
	names []string
	x     *walk.Residual
}

// units are the linears of a block whose errors are measured together.
func (a *apart) units(b *program.Program) (all [][]int) {
	var experts []int
	for i, l := range b.Linears {
		switch {
		case !a.wants(l.Name):
		case l.Expert >= 0:
			experts = append(experts, i)
		default:
			all = append(all, []int{i})
		}
	}
	if experts != nil {
		all = append(all, experts)
	}
	return all
}

// block takes all streams through a block, and has new ones begin there.
func (a *apart) block(ctx context.Context, b *program.Block) error {
	for _, s := range a.streams {
		if err := a.w.Pass(ctx, b, s.x, true, nil); err != nil {
			return err
		}
	}
	for _, linears := range a.units(b.Program) {
		a.step()
		changed, names, err := a.changed(b, linears)
		if err != nil {
			return err
		}
		if names == nil {
			continue
		}
		x, err := a.w.Copy(a.base)
		if err != nil {
			return err
		}
		a.streams = append(a.streams, stream{names, x})
		if err := a.w.Pass(ctx, changed, x, true, nil); err != nil {
			return err
		}
	}
	a.step()
	return a.w.Pass(ctx, b, a.base, true, nil)
}

// changed is a block with the errors of linears, those of names.
func (a *apart) changed(b *program.Block, linears []int) (c *program.Block, names []string, err error) {
	c = b.Clone()
	for _, i := range linears {
		name := b.Linears[i].Name
		e, err := a.errorOf(name)
		if err != nil {
			return nil, nil, err
		}
		if e == nil {
			continue
		}
		for k, v := range b.Linear(i).Weight.Data {
			e.Data[k] += v
		}
		c.Linear(i).Weight = e
		names = append(names, name)
	}
	return c, names, nil
}

// costs compares what the streams come to with the model's own predictions.
func (a *apart) costs(ctx context.Context, share func(string) float64) (map[string]float64, error) {
	w := a.w
	head, err := w.Model.LoadHead(w.Weights, nil)
	if err != nil {
		return nil, err
	}
	base := tensor.New(len(a.windows)*w.SeqLen, w.Model.Hidden)
	if err := w.Show(a.base, func(window int, x *tensor.Matrix) error {
		walk.Rows(base, window*w.SeqLen, (window+1)*w.SeqLen).CopyFrom(x)
		return nil
	}); err != nil {
		return nil, err
	}
	n := walk.LogitsChunk(w.Model.Vocab, 2, w.SeqLen)
	p, q, kl := tensor.New(n, w.Model.Vocab), tensor.New(n, w.Model.Vocab), make([]float64, n)
	costs := map[string]float64{}
	for _, s := range a.streams {
		var sum float64
		err := w.Show(s.x, func(window int, x *tensor.Matrix) error {
			for t := 0; t < w.SeqLen; t += n {
				n := min(n, w.SeqLen-t)
				head.Logits(w.Runner, walk.Rows(p, 0, n), walk.Rows(base, window*w.SeqLen+t, window*w.SeqLen+t+n))
				head.Logits(w.Runner, walk.Rows(q, 0, n), walk.Rows(x, t, t+n))
				decoder.KLs(w.Runner, kl[:n], walk.Rows(p, 0, n), walk.Rows(q, 0, n))
				for _, v := range kl[:n] {
					sum += v
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
		divide(costs, s.names, sum/float64(base.Rows), share)
	}
	return costs, nil
}

// divide shares a cost out among layers.
func divide(costs map[string]float64, names []string, cost float64, share func(string) float64) {
	var all float64
	for _, name := range names {
		all += share(name)
	}
	for _, name := range names {
		part := 1 / float64(len(names))
		if all > 0 {
			part = share(name) / all
		}
		costs[name] = part * cost
	}
}
