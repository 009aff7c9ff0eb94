package lowbit

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
)

// openFiles counts the descriptors of the process, where the system lists them.
func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Logf("descriptors are not counted: %v", err)
		return 0
	}
	return len(entries)
}

// TestCancelledRunsLeaveNothing: goroutines and descriptors are as many after
// runs that were cancelled, at any moment and on any route, as before.
func TestCancelledRunsLeaveNothing(t *testing.T) {
	calibrated := quick(t)
	best := quick(t)
	best.Preset, best.Bits, best.Format, best.Axis = Best, 4, format(t, "gptq"), AxisOC
	best.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[13]\.`)}
	rounded := Options{Model: embedded, Method: quant.RTN{}, Axis: AxisOC}
	gguf := Options{Model: embedded, Method: quant.RTN{}, Axis: AxisOC, Format: format(t, "gguf"), Bits: 4, GroupSize: 32, Symmetric: new(true)}
	text := Text{Files: []string{embeddedHeldout}}
	quantizes := func(o Options) func(context.Context, func(Event)) error {
		return func(ctx context.Context, events func(Event)) error {
			o.Output, o.Events = filepath.Join(t.TempDir(), "out"), events
			_, err := Quantize(ctx, o)
			return err
		}
	}
	runs := map[string]func(context.Context, func(Event)) error{
		"calibrated": quantizes(calibrated), "best": quantizes(best), "rounded": quantizes(rounded), "gguf": quantizes(gguf),
		"eval": func(ctx context.Context, events func(Event)) error {
			_, err := Evaluate(ctx, EvalOptions{Model: embedded, Against: embedded, Text: text, Events: events})
			return err
		},
	}
	// once runs until the n-th event and reports whether there were as many.
	once := func(run func(context.Context, func(Event)) error, n int) bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		seen := 0
		err := run(ctx, func(Event) {
			if seen++; seen == n {
				cancel()
			}
		})
		if seen >= n && err != nil {
			require.ErrorIs(t, err, context.Canceled)
		} else {
			require.NoError(t, err)
		}
		return seen >= n
	}
	for name, run := range runs {
		once(run, 1) // what stays for the next run: pools and the like
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		cancelled := 0
		for n := 1; n < 300 && once(run, n); n = 5*n + 1 {
			cancelled++
		}
		require.Greater(t, cancelled, 1, name)
		for wait := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(wait); {
			time.Sleep(time.Millisecond)
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			stacks := make([]byte, 1<<16)
			t.Errorf("%s: %d goroutines, were %d:\n%s", name, n, goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		require.LessOrEqual(t, openFiles(t), files, name)
	}
}
