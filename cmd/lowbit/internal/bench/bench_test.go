package bench

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var names []string
	err := Run(context.Background(), Options{Threads: 2, Runs: 1, Shrink: 64}, func(r Result) error {
		names = append(names, r.Name)
		require.Positive(t, r.Value, r.Name)
		require.Positive(t, r.Floor, r.Name)
		require.Positive(t, r.Share(), r.Name)
		require.NotEmpty(t, r.BoundBy, r.Name)
		require.Contains(t, []string{GFLOPS, GBS, Seconds, TokensSec}, r.Unit)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"fma", "memcpy", "gemm/2048", "gemm/4096", "syrk/16384x4096", "cholesky/4096",
		"solve/oc/4096x4096", "solve/ic/4096x4096", "solve/oc/11008x4096", "rtn/bf16", "forward",
	}, names)
}

func TestRunEnds(t *testing.T) {
	stop := errors.New("enough")
	n := 0
	err := Run(context.Background(), Options{Runs: 1, Shrink: 64}, func(Result) error {
		n++
		return stop
	})
	require.ErrorIs(t, err, stop)
	require.Equal(t, 1, n)

	ctx, cancel := context.WithCancel(context.Background())
	n = 0
	err = Run(ctx, Options{Runs: 1, Shrink: 64}, func(Result) error {
		n++
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, n)
}

func TestShare(t *testing.T) {
	require.InDelta(t, 0.5, Result{Value: 50, Floor: 100, Unit: GFLOPS}.Share(), 1e-12)
	require.InDelta(t, 0.5, Result{Value: 2, Floor: 1, Unit: Seconds}.Share(), 1e-12)
	require.Zero(t, Result{Unit: Seconds}.Share())
}
