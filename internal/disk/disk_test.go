package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlainName(t *testing.T) {
	for _, name := range []string{"a", "model-00001-of-00002.safetensors", ".hidden", "..."} {
		require.True(t, PlainName(name), name)
	}
	for _, name := range []string{"", ".", "..", "a/b", "/a", `a\b`, "c:a", "a\x00b", "../a"} {
		require.False(t, PlainName(name), name)
	}
}

func TestSyncFolder(t *testing.T) {
	require.NoError(t, SyncFolder(t.TempDir()))
	require.Error(t, SyncFolder(filepath.Join(t.TempDir(), "none")))
}

func TestReadText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	for stored, want := range map[string]string{"\ufeff{}": "{}", "{}\ufeff": "{}\ufeff", "": ""} {
		require.NoError(t, os.WriteFile(path, []byte(stored), 0o666))
		got, err := ReadText(path, 8)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	_, err := ReadText(path+"s", 8)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.WriteFile(path, make([]byte, 9), 0o666))
	_, err = ReadText(path, 8)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = ReadText(t.TempDir(), 8)
	require.ErrorIs(t, err, ErrNotRegular)
}
