package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The files in the repository are what the generator writes.
func TestGenerated(t *testing.T) {
	files := generate()
	require.NotEmpty(t, files)
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", name))
		require.NoError(t, err)
		require.True(t, string(want) == string(got), "%s is stale: run go generate in internal/kernel", name)
	}
	old, err := filepath.Glob("../z*")
	require.NoError(t, err)
	for _, path := range old {
		require.Contains(t, files, filepath.Base(path), "nothing generates it any more")
	}
}
