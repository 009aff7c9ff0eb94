package lowbit

import (
	"fmt"
	"sync"

	"github.com/golowbit/lowbit/internal/parallel"
)

// runDirect quantizes layers that need no calibration, several at a time.
func (j *job) runDirect() error {
	workers := parallel.Workers(j.Workers)
	one := *j
	one.Workers = 1 // layers run side by side
	var mu sync.Mutex
	events := j.Events
	if events != nil {
		one.Events = func(e Event) { events(e) }
	}
	return parallel.For(j.ctx, workers, len(j.order), func(i int) error {
		p := j.order[i]
		r := &LayerReport{Name: p.name, Out: p.out, In: p.in, Dense: p.dense, Scheme: p.scheme}
		if !p.dense {
			w, err := j.src.Matrix(p.name + ".weight")
			if err != nil {
				return err
			}
			s := p.scheme
			s.Axis = p.arms[0].Axis
			q, err := one.method().Quantize(j.ctx, w, s, nil)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			r.Arm, r.Scheme = p.arms[0].String(), s
			r.Bits = float64(q.StorageBits()) / float64(p.out*p.in)
			if err := j.out.Put(p.name, q, nil); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		j.finish(r)
		return nil
	})
}
