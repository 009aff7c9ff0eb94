package lowbit

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
)

// stageInputs keeps what a block shows of its stages.
type stageInputs struct {
	block *program.Block
	seen  map[int][]float32
}

func (v *stageInputs) Wants(int) bool                    { return true }
func (v *stageInputs) Settle(context.Context, int) error { return nil }
func (v *stageInputs) Observe(stage int, frames []*program.Frame) error {
	return v.observe(stage, frames[0])
}

func (v *stageInputs) observe(stage int, f *program.Frame) error {
	v.seen[stage] = append(v.seen[stage], f.Input(&v.block.Stages[stage]).Clone().Data...)
	return nil
}

// TestBehindLastStage: where nobody wants what a block makes of the text, nothing
// behind its last stage is computed: a linear without a weight there is not missed.
func TestBehindLastStage(t *testing.T) {
	m, err := (&EvalOptions{}).open(embedded, "")
	require.NoError(t, err)
	defer m.Close()
	b, err := m.Model.Blocks[0].Load(m.Source())
	require.NoError(t, err)
	last := b.Stages[len(b.Stages)-1].Linears
	require.Len(t, last, 1)
	without := b.Clone()
	without.Linear(last[0]).Weight = nil
	require.NotNil(t, b.Linear(last[0]).Weight)

	w := &walk.Walk{Model: m.Model, Weights: m.Source(), Runner: m.Runner, SeqLen: 4, Store: streams.New(m.Runner, streams.Unlimited, nil)}
	start := func() *walk.Residual {
		x, err := w.Start(t.Context(), [][]int32{{1, 5, 9, 20}, {1, 7, 7, 30}}, 1)
		require.NoError(t, err)
		return x[0]
	}
	whole := &stageInputs{b, map[int][]float32{}}
	require.NoError(t, w.Pass(t.Context(), b, start(), true, whole.observe))
	require.Len(t, whole.seen, len(b.Stages))

	part := &stageInputs{without, map[int][]float32{}}
	x := start()
	for range 2 { // the stream stays as it is
		clear(part.seen)
		require.NoError(t, w.Pass(t.Context(), without, x, false, part.observe))
		require.Equal(t, whole.seen, part.seen)
	}
	staged := &stageInputs{without, map[int][]float32{}}
	require.NoError(t, w.Stages(t.Context(), []walk.Stream{{Block: without, X: x}}, staged, true))
	require.Equal(t, whole.seen, staged.seen)
	require.Panics(t, func() {
		_ = w.Pass(t.Context(), without, start(), true, func(int, *program.Frame) error { return nil })
	})
}
