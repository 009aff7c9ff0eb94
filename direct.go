package lowbit

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
)

// directLayers is how many layers are under way at once: while one is
// written another is read. More workers share the lines of a layer.
const directLayers = 4

// runDirect quantizes layers that need no calibration, which is rounding to
// nearest: weights are read, rounded, packed and written in pieces that stay
// in the caches, several layers at a time.
func (j *job) runDirect(ctx context.Context) error {
	workers := parallel.Workers(j.set.workers)
	lanes := min(workers, directLayers)
	var mu sync.Mutex
	free := make(chan *quant.Weight, lanes)
	for range lanes {
		free <- &quant.Weight{}
	}
	return parallel.For(ctx, lanes, len(j.plan.Layers), func(i int) error {
		p := j.plan.Layers[i]
		if !j.mine(p.Name) {
			return nil
		}
		r := j.reportOf(p)
		if !p.Dense {
			s := p.First().Scheme
			q := <-free
			defer func() { free <- q }()
			q.Reset(p.Out, p.In, s)
			done := j.out.Done(p.Name) // by the run that is resumed
			if !done {
				if err := j.layers.Round(ctx, q, p.Name+layout.WeightSuffix, j.importance.Squares(p.Name), max(1, workers/lanes)); err != nil {
					return outOfRange(p.Name, err)
				}
			}
			r.Arm, r.Scheme = p.Arms[0].String(), s
			r.Bits = float64(q.StorageBits()) / float64(p.Out*p.In)
			if !done {
				var report json.RawMessage
				if !j.team.Alone() { // another part puts the result together
					report, _ = json.Marshal(r)
				}
				if err := j.out.Put(p.Name, q, report); err != nil {
					return outOfRange(p.Name, err)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if !p.Dense {
			j.made[p.Name] = p.First()
		}
		j.finish(r, false)
		return nil
	})
}
