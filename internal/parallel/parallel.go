// Package parallel spreads independent work over goroutines.
package parallel

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// Workers returns n, or GOMAXPROCS if n is not positive.
func Workers(n int) int {
	if n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

// Each calls fn(worker, i) for every i in [0, n), in ascending order of their
// starts, on at most workers goroutines (0 means GOMAXPROCS), the caller's
// among them, and returns when all are done. worker numbers the goroutine,
// from 0 to Workers(workers)-1: calls with the same number never overlap.
func Each(workers, n int, fn func(worker, i int)) {
	workers = min(Workers(workers), n)
	if workers <= 1 {
		for i := range n {
			fn(0, i)
		}
		return
	}
	var next atomic.Int64
	run := func(worker int) {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			fn(worker, i)
		}
	}
	var wg sync.WaitGroup
	for w := 1; w < workers; w++ {
		wg.Go(func() { run(w) })
	}
	run(0)
	wg.Wait()
}

type atMost struct{}

// Within bounds For, where it is not told how many workers, to n of them in what is
// called with the context; 0 means no bound.
func Within(ctx context.Context, n int) context.Context { return context.WithValue(ctx, atMost{}, n) }

// For calls fn(i) for every i in [0, n) as Each does, with workers of 0 on no more
// goroutines than the context is bound to. Once an error occurred
// or ctx is done no further calls are begun. It returns the error of the
// lowest i, whatever the number of workers; ctx's if that came first.
func For(ctx context.Context, workers, n int, fn func(i int) error) error {
	var (
		stop   atomic.Bool
		mu     sync.Mutex
		lowest = n
		first  error
	)
	if bound, _ := ctx.Value(atMost{}).(int); workers <= 0 {
		workers = bound
	}
	Each(workers, n, func(_, i int) {
		// An index that was begun before an error elsewhere still runs, so
		// none below the one that failed is left out.
		if stop.Load() {
			mu.Lock()
			later := i > lowest
			mu.Unlock()
			if later {
				return
			}
		}
		err := ctx.Err()
		if err == nil {
			err = fn(i)
		}
		if err != nil {
			mu.Lock()
			if i < lowest {
				lowest, first = i, err
			}
			mu.Unlock()
			stop.Store(true)
		}
	})
	return first
}
