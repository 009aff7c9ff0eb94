package walk_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
)

// TestKeep: streams that were kept come back as they were, from memory and from a file,
// and nothing else is taken for them.
func TestKeep(t *testing.T) {
	windows := make([][]int32, 5)
	for i := range windows {
		for k := range 700 { // two windows a batch
			windows[i] = append(windows[i], int32((7*i+k)%500))
		}
	}
	const tokens = 5 * 700
	var first []byte
	for _, limit := range []int64{0, streams.Unlimited} {
		w := way(t, tinyllama, 700, 1, limit)
		all, err := w.Start(t.Context(), windows, 2)
		require.NoError(t, err)
		var kept bytes.Buffer
		require.NoError(t, w.Keep(t.Context(), &kept, 3, all))
		require.EqualValues(t, walk.Kept(all), kept.Len())
		if first == nil {
			first = bytes.Clone(kept.Bytes())
		}
		require.True(t, bytes.Equal(first, kept.Bytes()))
		back, block, err := w.Restore(t.Context(), bytes.NewReader(first), 2, tokens, 3)
		require.NoError(t, err)
		require.Equal(t, 3, block)
		var again bytes.Buffer
		require.NoError(t, w.Keep(t.Context(), &again, 3, back))
		require.True(t, bytes.Equal(first, again.Bytes()))
	}

	w := way(t, tinyllama, 700, 1, streams.Unlimited)
	used := w.Store.Used()
	restore := func(data []byte, n, tokens int) error {
		_, _, err := w.Restore(t.Context(), bytes.NewReader(data), n, tokens, 3)
		require.Equal(t, used, w.Store.Used())
		return err
	}
	behind, _, err := w.Restore(t.Context(), bytes.NewReader(first), 2, tokens, 2)
	require.NoError(t, err)
	require.Nil(t, behind)
	require.Equal(t, used, w.Store.Used())
	require.ErrorIs(t, restore(first, 1, tokens), streams.ErrKept)
	require.ErrorIs(t, restore(first, 2, tokens-700), streams.ErrKept)
	for _, at := range []int{0, 20, 60, len(first) / 3, len(first) - 1} {
		damaged := bytes.Clone(first)
		damaged[at] ^= 4
		require.ErrorIs(t, restore(damaged, 2, tokens), streams.ErrKept, "byte %d", at)
	}
	for _, n := range []int{0, 10, 48, len(first) / 2, len(first) - 1} {
		err := restore(first[:n], 2, tokens)
		require.True(t, err != nil && (bytes.Contains([]byte(err.Error()), []byte("EOF")) || err == io.EOF), "%d bytes: %v", n, err)
	}
}
