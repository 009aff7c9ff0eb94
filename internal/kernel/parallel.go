package kernel

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// workersFor resolves a worker count: 0 or less means GOMAXPROCS.
func workersFor(workers int) int {
	if workers <= 0 {
		return runtime.GOMAXPROCS(0)
	}
	return workers
}

// parallel calls f(0) … f(tasks-1) on at most workers goroutines, the
// caller's among them, and returns when all are done.
func parallel(workers, tasks int, f func(task int)) {
	workers = min(workers, tasks)
	if workers <= 1 {
		for t := range tasks {
			f(t)
		}
		return
	}
	var next atomic.Int64
	run := func() {
		for {
			t := int(next.Add(1)) - 1
			if t >= tasks {
				return
			}
			f(t)
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(run)
	}
	run()
	wg.Wait()
}
