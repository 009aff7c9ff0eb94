package checkpoint

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/safetensors"
)

// TestKeep: what is kept of the text comes back in a resumed run, and that it
// cannot be kept ends none.
func TestKeep(t *testing.T) {
	var warnings []string
	o := WriterOptions{
		Out: filepath.Join(t.TempDir(), "out"), Source: openModel(t, writeModel(t, safetensors.BF16)), Format: native.Format{}, Layers: layerNames(),
		Warn: func(text string) { warnings = append(warnings, text) },
	}
	path := filepath.Join(o.Out+PartialSuffix, "kept-streams")
	w, err := Create(o)
	require.NoError(t, err)
	for name, q := range testWeights() {
		require.NoError(t, w.Put(name, q, nil))
		break // one is done: the folder stays
	}
	f, err := w.Kept("streams")
	require.NoError(t, err)
	require.Nil(t, f)
	text := func(s string) func(io.Writer) error {
		return func(out io.Writer) error {
			_, err := out.Write([]byte(s))
			return err
		}
	}
	require.NoError(t, w.Keep("streams", 5, text("first")))
	require.NoError(t, w.Keep("streams", 6, text("second")))
	require.NoError(t, w.Keep("streams", 1<<60, text("more than any disk has")))
	require.Empty(t, warnings)
	require.NoError(t, w.Close())

	o.Resume = true
	for _, call := range []string{"create", "write", "rename"} {
		o.disk.Fail = func(c, path string) error {
			if c == call && strings.Contains(path, "kept-streams") {
				return errBroken
			}
			return nil
		}
		w, err = Create(o)
		require.NoError(t, err)
		warnings = nil
		require.NoError(t, w.Keep("streams", 5, text("third")), call)
		require.Len(t, warnings, 1, call)
		require.Contains(t, warnings[0], errBroken.Error())
		require.NoFileExists(t, path+".tmp", call)
		require.NoError(t, w.Close())
	}
	o.disk.Fail = nil
	w, err = Create(o)
	require.NoError(t, err)
	ended := func(io.Writer) error { return context.Canceled }
	require.ErrorIs(t, w.Keep("streams", 5, ended), context.Canceled)
	f, err = w.Kept("streams")
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Equal(t, "second", string(got))
	require.NoError(t, os.WriteFile(path+".tmp", nil, 0o666)) // of a run that was killed
	require.NoError(t, w.DropKept("streams", nil))
	require.NoFileExists(t, path)
	require.NoFileExists(t, path+".tmp")
	require.NoError(t, w.Discard())
	require.ErrorIs(t, w.Keep("streams", 5, text("late")), errClosed)
}
