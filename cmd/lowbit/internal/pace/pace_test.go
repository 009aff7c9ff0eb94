package pace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
)

// TestWork: layers count by their weights, those of an earlier run do not count for the pace,
// and a phase that comes before layers does not either.
func TestWork(t *testing.T) {
	at := time.Unix(1000, 0)
	var w Work
	event := func(seconds int, e lowbit.Event) {
		at = at.Add(time.Duration(seconds) * time.Second)
		w.Event(e, at)
	}
	layer := func(in int, dense bool) *lowbit.LayerReport {
		return &lowbit.LayerReport{Out: 10, In: in, Dense: dense}
	}
	left := func(want int) {
		t.Helper()
		got, ok := w.Left()
		require.Equal(t, want >= 0, ok)
		if ok {
			require.Equal(t, time.Duration(want)*time.Second, got)
		}
	}
	event(0, lowbit.Event{Kind: lowbit.EventPlan, Total: 3, Kept: 1, Plan: &lowbit.Plan{Layers: []lowbit.LayerPlan{{Out: 10, In: 10}, {Out: 10, In: 100, Dense: true}, {Out: 10, In: 10}, {Out: 10, In: 20}}}})
	event(50, lowbit.Event{Kind: lowbit.EventProgress, Message: "curvature", Done: 1, Total: 4})
	require.Equal(t, 0.25, w.Share())
	left(150)
	event(50, lowbit.Event{Kind: lowbit.EventProgress, Message: "curvature", Done: 4, Total: 4})
	left(-1)
	event(1, lowbit.Event{Kind: lowbit.EventBlock, Blocks: 1})
	require.Zero(t, w.Share())
	event(1, lowbit.Event{Kind: lowbit.EventLayer, Layer: layer(10, false), Done: 1, Total: 4, Kept: 1})
	event(1, lowbit.Event{Kind: lowbit.EventLayer, Layer: layer(100, true), Done: 2, Total: 4, Kept: 1})
	require.Equal(t, 0.25, w.Share())
	left(-1)
	event(17, lowbit.Event{Kind: lowbit.EventLayer, Layer: layer(10, false), Done: 3, Total: 4, Kept: 2})
	require.Equal(t, 0.5, w.Share())
	left(40) // 20 s for 100 weights
	event(20, lowbit.Event{Kind: lowbit.EventLayer, Layer: layer(20, false), Done: 4, Total: 4, Kept: 3})
	require.Equal(t, 1.0, w.Share())
	event(0, lowbit.Event{Kind: lowbit.EventWrite, Done: 50, Total: 100})
	require.Equal(t, 0.5, w.Share())
	left(-1) // too soon
	// Models in turn are one phase.
	event(0, lowbit.Event{Kind: lowbit.EventProgress, Message: "a", Done: 1, Total: 8})
	turns := w.Turns
	event(30, lowbit.Event{Kind: lowbit.EventProgress, Message: "b", Done: 2, Total: 8})
	require.Equal(t, turns, w.Turns)
	left(90)
}
