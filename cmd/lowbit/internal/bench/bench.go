// Package bench measures what the hot paths make of a machine, beside what
// the machine can do at all: its multiply-add peak and its memory.
//
// Every figure is the median of some runs after one that is not counted, with
// all memory touched before. Figures of the same run belong together: those
// of another minute, on a machine that others use too, do not compare.
package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/parallel"
)

// Result is one figure.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Floor is what Value could be at best if nothing but BoundBy took time,
	// by what that was measured to do just before.
	Floor   float64 `json:"floor"`
	BoundBy string  `json:"bound_by"`
	// Level is the instruction set of the kernels, as LOWBIT_CPU names it.
	Level string `json:"level"`
}

// Share is how much of the best possible Value is.
func (r Result) Share() float64 {
	if r.Value == 0 || r.Floor == 0 {
		return 0
	}
	if r.Unit == Seconds {
		return r.Floor / r.Value
	}
	return r.Value / r.Floor
}

// Units.
const (
	GFLOPS    = "GFLOP/s"
	GBS       = "GB/s"
	Seconds   = "s"
	TokensSec = "tokens/s"
)

// Options say how much to measure. The zero value is usable.
type Options struct {
	Threads int // goroutines; 0 means GOMAXPROCS
	Runs    int // counted runs of everything; 0 means 5
	// Shrink divides every size, for tests. The names stay.
	Shrink int
}

// suite is one call of Run.
type suite struct {
	o       Options
	threads int
	rnd     *rand.Rand
	report  func(Result) error

	fma      float64 // GFLOP/s of all threads
	copyRate float64 // GB/s copied by one thread
	gemm     float64 // GFLOP/s of our largest product
}

// Run measures everything, in an order in which what bounds a figure comes
// before it, and reports each result as soon as it is there.
func Run(ctx context.Context, o Options, report func(Result) error) error {
	if o.Runs <= 0 {
		o.Runs = 5
	}
	if o.Shrink <= 0 {
		o.Shrink = 1
	}
	s := &suite{o: o, threads: parallel.Workers(o.Threads), rnd: rand.New(rand.NewPCG(1, 2)), report: report}
	for _, part := range []func(context.Context) error{s.machine, s.products, s.cholesky, s.solves, s.rtn, s.forward} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) result(name string, value float64, unit string, floor float64, boundBy string) error {
	return s.report(Result{Name: name, Value: value, Unit: unit, Floor: floor, BoundBy: boundBy, Level: Level()})
}

// Level is the instruction set that the kernels use, as LOWBIT_CPU names it.
func Level() string { return kernel.Active().String() }

// size is n, or less in a test.
func (s *suite) size(n int) int { return max(n/s.o.Shrink, 16) }

// time returns the median seconds of f.
func (s *suite) time(ctx context.Context, f func() error) (float64, error) {
	if err := f(); err != nil {
		return 0, err
	}
	var seconds []float64
	for range s.o.Runs {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		seconds = append(seconds, time.Since(start).Seconds())
	}
	slices.Sort(seconds)
	n := len(seconds)
	return max((seconds[(n-1)/2]+seconds[n/2])/2, 1e-9), nil
}

// do is time for what cannot fail.
func (s *suite) do(ctx context.Context, f func()) (float64, error) {
	return s.time(ctx, func() error { f(); return nil })
}

// each calls f on every thread.
func (s *suite) each(f func(thread int)) {
	var wg sync.WaitGroup
	for i := range s.threads {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// noise returns n floats between -1 and 1.
func (s *suite) noise(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = 2*s.rnd.Float32() - 1
	}
	return x
}

// machine measures the ceilings.
func (s *suite) machine(ctx context.Context) error {
	rounds := s.size(16 << 20) // a tenth of a second
	var flops float64
	t, err := s.do(ctx, func() {
		done := make([]float64, s.threads)
		s.each(func(i int) { done[i] = kernel.Peak(rounds) })
		flops = 0
		for _, n := range done {
			flops += n
		}
	})
	if err != nil {
		return err
	}
	s.fma = flops / t / 1e9
	if err := s.result("fma", s.fma, GFLOPS, s.fma, "clock"); err != nil {
		return err
	}

	// Larger than any cache.
	n := s.size(256 << 20)
	src, dst := make([]byte, n), make([]byte, n)
	for i := range src {
		src[i] = byte(i)
	}
	if t, err = s.do(ctx, func() { copy(dst, src) }); err != nil {
		return err
	}
	s.copyRate = float64(n) / t / 1e9
	part := (n + s.threads - 1) / s.threads
	if t, err = s.do(ctx, func() {
		s.each(func(i int) {
			a, b := min(i*part, n), min((i+1)*part, n)
			copy(dst[a:b], src[a:b])
		})
	}); err != nil {
		return err
	}
	rate := float64(n) / t / 1e9
	return s.result("memcpy", rate, GBS, rate, "memory")
}
