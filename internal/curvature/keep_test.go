package curvature

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/streams"
)

// TestKeep: what was collected comes back as it was, for all layers or the rest of them,
// and nothing else is taken for it.
func TestKeep(t *testing.T) {
	const n, seqLen = 3, 20
	late := func(l string) bool { return strings.HasPrefix(l, "model.layers.3.") }
	later := func(l string) bool { return strings.HasPrefix(l, "model.layers.3.mlp.") }
	w := way(t, seqLen, 2)
	used := w.Store.Used()
	m, err := Collect(t.Context(), w, windows(n, seqLen), late, nil)
	require.NoError(t, err)
	var kept bytes.Buffer
	require.NoError(t, m.Keep(t.Context(), &kept))
	require.EqualValues(t, m.Size(), kept.Len())

	data := kept.Bytes()
	back, err := Restore(t.Context(), w, later, bytes.NewReader(data))
	require.NoError(t, err)
	none, err := back.Of("model.layers.3.self_attn.q_proj") // is not wanted
	require.NoError(t, err)
	require.Nil(t, none)
	for _, l := range w.Model.Linears() {
		if !later(l.Name) {
			continue
		}
		require.Equal(t, m.Kept[l.Name], back.Kept[l.Name])
		want, err := m.Of(l.Name)
		require.NoError(t, err)
		got, err := back.Of(l.Name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	m.Drop()
	require.Equal(t, used, w.Store.Used())

	restore := func(data []byte, wants func(string) bool) error {
		m, err := Restore(t.Context(), w, wants, bytes.NewReader(data))
		require.Nil(t, m)
		require.Equal(t, used, w.Store.Used())
		return err
	}
	earlier := func(l string) bool { return strings.HasPrefix(l, "model.layers.2.") }
	require.ErrorIs(t, restore(data, earlier), streams.ErrKept)
	for _, at := range []int{0, 26, 28, 40, 45, 70, len(data) / 3, len(data) - 1} {
		damaged := bytes.Clone(data)
		damaged[at] ^= 4
		require.Error(t, restore(damaged, late), "byte %d", at)
		require.Error(t, restore(data[:at], late), "%d bytes", at)
	}
}
