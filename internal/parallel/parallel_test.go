package parallel_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/parallel"
)

func TestEach(t *testing.T) {
	for _, workers := range []int{0, 1, 2, 7, 100} {
		for _, n := range []int{0, 1, 2, 50, 1000} {
			calls := make([]atomic.Int32, n)
			busy := make([]atomic.Bool, parallel.Workers(workers))
			parallel.Each(workers, n, func(worker, i int) {
				if !busy[worker].CompareAndSwap(false, true) {
					t.Error("two calls of one worker overlap")
				}
				calls[i].Add(1)
				busy[worker].Store(false)
			})
			for i := range calls {
				require.EqualValues(t, 1, calls[i].Load(), "index %d of %d", i, n)
			}
		}
	}
	require.Equal(t, runtime.GOMAXPROCS(0), parallel.Workers(0))
	require.Equal(t, 3, parallel.Workers(3))
}

// The error is that of the lowest index for any number of workers.
func TestForError(t *testing.T) {
	for _, workers := range []int{1, 2, 5, 64} {
		for range 30 {
			var ran atomic.Int32
			err := parallel.For(context.Background(), workers, 10_000, func(i int) error {
				ran.Add(1)
				if i%10 >= 7 {
					return fmt.Errorf("index %d", i)
				}
				if i < 7 {
					runtime.Gosched()
				}
				return nil
			})
			require.EqualError(t, err, "index 7")
			require.Less(t, ran.Load(), int32(5_000), "no more is begun after an error")
		}
	}
	require.NoError(t, parallel.For(context.Background(), 3, 0, nil))
}

func TestForContext(t *testing.T) {
	for _, workers := range []int{1, 3} {
		ctx, cancel := context.WithCancelCause(context.Background())
		var ran atomic.Int32
		err := parallel.For(ctx, workers, 1_000, func(i int) error {
			if ran.Add(1) == 10 {
				cancel(errors.New("enough"))
			}
			return nil
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Less(t, ran.Load(), int32(20))
	}
}

// A context bounds the goroutines of those who do not say how many.
func TestWithin(t *testing.T) {
	most := func(ctx context.Context, workers int) int64 {
		var now, most atomic.Int64
		require.NoError(t, parallel.For(ctx, workers, 64, func(int) error {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
			return nil
		}))
		return most.Load()
	}
	require.Equal(t, int64(1), most(parallel.Within(t.Context(), 1), 0))
	require.LessOrEqual(t, most(parallel.Within(t.Context(), 3), 0), int64(3))
	require.Greater(t, most(parallel.Within(t.Context(), 1), 8), int64(1), "whoever says how many is not bound")
}
