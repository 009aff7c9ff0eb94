package disk

import (
	"math"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFree(t *testing.T) {
	n, ok := FS{}.Free(filepath.Join(t.TempDir(), "not", "there", "yet"))
	switch runtime.GOOS {
	case "linux", "darwin", "windows":
		require.True(t, ok)
		require.Positive(t, n)
	default:
		require.False(t, ok)
	}
	_, ok = FS{Room: func(path string) (int64, bool) { return 7, path == "here" }}.Free("here")
	require.True(t, ok)
	require.EqualValues(t, 12, product(3, 4))
	require.EqualValues(t, math.MaxInt64, product(math.MaxUint64, 4096))
	require.Zero(t, product(5, 0))
}
