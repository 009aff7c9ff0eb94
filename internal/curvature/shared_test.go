package curvature

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/shared"
	"github.com/golowbit/lowbit/tensor"
)

// TestCollectShared: what one run has collected another does not collect again, and both see
// what each would see alone.
func TestCollectShared(t *testing.T) {
	const n, seqLen = 6, 20
	names := []string{"model.layers.2.mlp.up_proj", "model.layers.1.self_attn.k_proj", "model.layers.3.mlp.down_proj"}
	text := windows(n, seqLen)
	collect := func(ctx context.Context, names ...string) (all []*tensor.Matrix, steps int) {
		w := way(t, seqLen, 2)
		m, err := Collect(ctx, w, text, func(l string) bool {
			for _, name := range names {
				if l == name {
					return true
				}
			}
			return false
		}, func(int, int) { steps++ })
		require.NoError(t, err)
		for _, name := range names {
			o, err := m.Of(name)
			require.NoError(t, err)
			require.NotNil(t, o)
			all = append(all, o)
		}
		require.Zero(t, w.Store.Used())
		return all, steps
	}
	want, _ := collect(context.Background(), names...)
	runs := shared.New(t.TempDir())
	defer func() { require.NoError(t, runs.Close()) }()
	ctx := runs.With(context.Background())
	first, steps := collect(ctx, names[:2]...)
	require.Positive(t, steps)
	require.Equal(t, want[:2], first)
	same, steps := collect(ctx, names[:2]...)
	require.Zero(t, steps)
	require.Equal(t, want[:2], same)
	more, steps := collect(ctx, names...)
	require.Positive(t, steps)
	require.Equal(t, want, more)

	text = windows(n+1, seqLen)
	_, steps = collect(ctx, names[0])
	require.Positive(t, steps, "another text")
}
