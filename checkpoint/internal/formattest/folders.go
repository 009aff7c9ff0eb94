package formattest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// modelFolder returns the embedded model, or a shared one: another dtype,
// shards with an index, dimensions that divide by nothing.
func ModelFolder(t testing.TB, name string) string {
	t.Helper()
	if name == "tinyllama-2m" {
		return filepath.Join(ModuleRoot(t), "testdata", name)
	}
	shared := os.Getenv("LOWBIT_SHARED")
	if shared == "" {
		shared = filepath.Join(ModuleRoot(t), "..", "shared")
	}
	dir := filepath.Join(shared, "models", name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("needs models/%s of the shared folder (../shared, or LOWBIT_SHARED)", name)
	}
	return dir
}

// moduleRoot is the folder of go.mod.
func ModuleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		require.NotEqual(t, dir, up, "no go.mod")
		dir = up
	}
}
