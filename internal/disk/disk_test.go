package disk

import (
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
