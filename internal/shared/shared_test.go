package shared

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

func TestRuns(t *testing.T) {
	dir := t.TempDir()
	r := New(dir)
	a, b := tensor.FromSlice(2, 2, []float32{1, 2, 3, 4}), tensor.FromSlice(1, 3, []float32{5, 6, 7})
	wide := tensor.FromSlice(2, 3, []float32{1, 2, 9, 3, 4, 9}).View(0, 2, 0, 2)
	Of(r.With(context.Background())).Put("both", a, b)
	r.Put("view", wide)
	r.Put("both", b) // is there already
	require.True(t, r.Has("both"))
	require.False(t, r.Has("none"))
	got, err := r.Get("both")
	require.NoError(t, err)
	require.Equal(t, []*tensor.Matrix{a, b}, got)
	got, err = r.Get("view")
	require.NoError(t, err)
	require.Equal(t, []*tensor.Matrix{a}, got)
	got, err = r.Get("none")
	require.NoError(t, err)
	require.Empty(t, got)

	_, err = r.file.WriteAt([]byte{1}, 0)
	require.NoError(t, err)
	_, err = r.Get("both")
	require.ErrorIs(t, err, streams.ErrDamaged)
	require.NoError(t, r.Close())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)

	// Without room, or a folder, nothing is kept.
	small := New(dir)
	small.disk = disk.FS{Room: func(string) (int64, bool) { return 31, true }}
	small.Put("a", a)
	small.Put("b", b)
	require.False(t, small.Has("a"))
	require.True(t, small.Has("b"))
	require.NoError(t, small.Close())
	gone := New(dir + "/gone")
	gone.Put("a", a)
	require.False(t, gone.Has("a"))

	none := Of(context.Background())
	none.Put("a", a)
	require.False(t, none.Has("a"))
	require.NoError(t, none.Close())
}

func TestText(t *testing.T) {
	w := &walk.Walk{Model: &decoder.Model{}, Runner: program.NewRunner(1), SeqLen: 2}
	ids := [][]int32{{1, 2}, {3, 4}}
	first := Text(w, ids)
	require.Equal(t, first, Text(w, ids))
	require.NotEqual(t, first, Text(w, [][]int32{{1, 2}, {3, 5}}))
	require.NotEqual(t, first, Text(w, [][]int32{{1, 2, 3, 4}}))
	w.Runner.BF16 = true
	require.NotEqual(t, first, Text(w, ids))
}
