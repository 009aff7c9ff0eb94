package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/partial"
	"github.com/golowbit/lowbit/internal/disk"
)

func TestScratch(t *testing.T) {
	fail := false
	d := disk.FS{Fail: func(call, path string) error {
		if fail && call == "write" {
			return syscall.ENOSPC
		}
		return nil
	}}
	w := &Writer{partial: partial.New(filepath.Join(t.TempDir(), "out"), d), disk: d}
	require.NoError(t, os.Mkdir(w.partial.Path(), 0o777))
	path := w.partial.Scratch()
	require.NoError(t, os.WriteFile(path, []byte("of an earlier run"), 0o666))
	f, err := w.Scratch()
	require.NoError(t, err)
	require.Equal(t, path, f.Name())
	_, err = f.WriteAt([]byte{1, 2, 3}, 1000)
	require.NoError(t, err)
	b := make([]byte, 3)
	_, err = f.ReadAt(b, 999)
	require.NoError(t, err)
	require.Equal(t, []byte{0, 1, 2}, b)
	fail = true
	_, err = f.WriteAt([]byte{1, 2, 3}, 0)
	require.True(t, errors.Is(err, syscall.ENOSPC))
	require.NoError(t, f.Close())
	require.NoFileExists(t, path)
	require.NoError(t, (*ScratchFile)(nil).Close())
}
