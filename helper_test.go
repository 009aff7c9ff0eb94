package lowbit

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

const (
	embedded            = "testdata/tinyllama-2m"
	embeddedCalibration = "testdata/tinyllama-2m-text/calibration.txt"
	embeddedHeldout     = "testdata/tinyllama-2m-text/heldout.txt"
)

// quick are options for a run of the embedded model that takes a second.
func quick(t *testing.T) Options {
	return Options{
		Model: embedded, Output: filepath.Join(t.TempDir(), "out"),
		Preset: Paper, Bits: 3, GroupSize: 64,
		Calibration: Calibration{
			Text:    Text{Files: []string{embeddedCalibration}, PerDocument: true, BOS: new(true)},
			Samples: 4, SeqLen: 96,
		},
	}
}

// format returns the format of a name.
func format(t *testing.T, name string) layout.Format {
	t.Helper()
	f, err := checkpoint.Lookup(name)
	require.NoError(t, err)
	return f
}

// choosesGrids tells whether a format has one grid for all layers, so that none is asked for.
func choosesGrids(f layout.Format) bool {
	m, ok := f.(layout.Mixer)
	if ok {
		_, ok = m.Main()
	}
	return ok
}

// folder returns the files of a folder, by name, with their contents.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, name))
		files[name] = string(data)
		return err
	}))
	return files
}

// requireSameFolder wants two folders to have the same files, byte by byte.
func requireSameFolder(t *testing.T, want, got string) {
	t.Helper()
	a, b := folder(t, want), folder(t, got)
	require.NotEmpty(t, a)
	for name, data := range a {
		other, ok := b[name]
		require.True(t, ok, "no %s in %s", name, got)
		require.True(t, data == other, "%s differs", name)
	}
	require.Len(t, b, len(a))
}
