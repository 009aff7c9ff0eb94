package blocks_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/shared"
)

// TestAlike: runs that share see the same statistics as one alone, and only the first runs the
// text: the others but for what it had no need of.
func TestAlike(t *testing.T) {
	alone := &rounded{}
	_, err := run(t, alone, blocks.Options{Full: true})
	require.NoError(t, err)

	runs := shared.New(t.TempDir())
	defer func() { require.NoError(t, runs.Close()) }()
	const skipped = "model.layers.2.mlp.down_proj"
	for i, c := range []struct {
		o    blocks.Options
		done map[string]bool
		runs bool
	}{
		{o: blocks.Options{Full: true}, done: map[string]bool{skipped: true}, runs: true},
		{o: blocks.Options{Full: true}, done: map[string]bool{skipped: true}},
		{o: blocks.Options{Full: true}, runs: true},
		{o: blocks.Options{Full: true}},
		{o: blocks.Options{Full: true, BlockLoss: true}, runs: true},
		{o: blocks.Options{Full: true, Overflow: func(string, float32) {}}, runs: true},
		{runs: true},
	} {
		r := &rounded{done: c.done}
		ctx, clock := phases.With(runs.With(context.Background()))
		_, err := runIn(ctx, t, "../../testdata/tinyllama-2m", r, c.o)
		require.NoError(t, err)
		require.Equal(t, c.runs, clock.Seconds(phases.Forward) > 0, "%d", i)
		if !c.o.Full {
			continue
		}
		for name, h := range alone.h {
			if name != skipped || r.h[name] != nil {
				require.Equal(t, h, r.h[name], "%d: %s", i, name)
			}
		}
		require.Len(t, r.order, len(alone.order))
	}
}
