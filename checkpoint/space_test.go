package checkpoint

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/safetensors"
)

// room is a disk with n bytes.
func room(n int64) disk.FS {
	return disk.FS{Room: func(string) (int64, bool) { return n, true }}
}

// sizeOf is the size of all files under a path.
func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	var n int64
	require.NoError(t, filepath.WalkDir(path, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		n += info.Size()
		return err
	}))
	return n
}

// TestSpace: every format, from kept layers, directly and by Convert, is refused
// where the disk surely has no room, before anything is written, and not where
// it may have; what is foreseen is what there is in the end.
func TestSpace(t *testing.T) {
	for name, route := range faultRoutes(t, true) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := route.options
			o.Out = filepath.Join(t.TempDir(), "out")
			if len(o.Layers) > 0 && o.Layers[0].Out == 0 {
				o.Layers = nil // of kept layers the schemes are not known: nothing is asked
				for _, l := range route.options.Layers {
					shape, _ := o.Source.Shape(l.Name + ".weight")
					l.Out, l.In, l.Scheme = shape[0], shape[1], heldScheme(o.Format, faultScheme)
					o.Layers = append(o.Layers, l)
				}
			}
			asked := o
			if asked.Layers == nil { // as Convert does
				asked.Layers, asked.Direct = o.Source.Layers(), true
			}
			s, err := SpaceFor(asked)
			require.NoError(t, err)
			require.Positive(t, s.Free)
			require.Positive(t, s.Least)
			require.LessOrEqual(t, s.Least, s.Most())

			o.disk = room(s.Least - 1)
			err = route.write(t.Context(), o)
			require.ErrorIs(t, err, ErrSpace)
			require.ErrorContains(t, err, "out: not enough room on the disk: ")
			require.ErrorContains(t, err, " are needed at least (the result takes about ")
			require.Empty(t, sortedNames(t, filepath.Dir(o.Out)))

			var warnings []string
			o.Warn = func(text string) { warnings = append(warnings, text) }
			o.disk = room(s.Least)
			require.NoError(t, route.write(t.Context(), o))
			require.Equal(t, s.Most() > s.Least, len(warnings) == 1, "%q", warnings)
			made := sizeOf(t, o.Out)
			var others int64 // files that are copied
			if st, err := os.Stat(o.Out); err == nil && st.IsDir() {
				for _, name := range []string{"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"} {
					others += sizeOf(t, filepath.Join(o.Out, name))
				}
			}
			require.GreaterOrEqual(t, made-others, s.Output)
			require.Less(t, made-others, s.Output+128<<10, "beside tensors there are headers, and a tokenizer")
		})
	}
}

// TestSpaceResumed: what an interrupted run has left is room.
func TestSpaceResumed(t *testing.T) {
	weights := testWeights()
	o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: openModel(t, writeModel(t, safetensors.BF16)), Format: native.Format{}, Resume: true}
	for _, l := range layerNames() {
		l.Out, l.In, l.Scheme = weights[l.Name].Out, weights[l.Name].In, weights[l.Name].Scheme
		o.Layers = append(o.Layers, l)
	}
	w, err := Create(o)
	require.NoError(t, err)
	first := o.Layers[0].Name
	require.NoError(t, w.Put(first, weights[first], nil))
	require.NoError(t, w.Close())
	left := sizeOf(t, o.Out+PartialSuffix)
	o.disk = room(1 << 40)
	s, err := SpaceFor(o)
	require.NoError(t, err)
	require.Equal(t, 1<<40+left, s.Free)

	o.disk = room(max(0, s.Least-left-1))
	if s.Least > left {
		_, err = Create(o)
		require.ErrorIs(t, err, ErrSpace)
		require.Equal(t, left, sizeOf(t, o.Out+PartialSuffix), "a refusal changes nothing")
	}
	o.Scratch = 1 << 30
	var warned string
	o.Warn = func(text string) { warned = text }
	o.disk = room(1 << 29)
	w, err = Create(o)
	require.NoError(t, err)
	require.Contains(t, warned, "the disk may be too small: ")
	require.Contains(t, warned, "what does not fit in memory before 1.00 GiB")
	require.True(t, w.Done(first))
	require.NoError(t, w.Close())
	o.disk = disk.FS{Room: func(string) (int64, bool) { return 0, false }}
	w, err = Create(o)
	require.NoError(t, err, "a system that does not tell is not asked")
	require.NoError(t, w.Close())
}
