package testkit

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
)

// SplitGGUF makes n files in dir of a GGUF file, as llama-gguf-split does with the tensors
// in order; with bare the first has none. change, if not nil, changes the metadata of part i.
func SplitGGUF(t *testing.T, path, dir string, n int, bare bool, change func(i int, kv []gguf.KV) []gguf.KV) []string {
	t.Helper()
	f, err := gguf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	all := f.Tensors()
	with := n // parts with tensors
	if bare {
		with--
	}
	var paths []string
	for i := range n {
		var kv []gguf.KV
		if i == 0 {
			kv = slices.Clone(f.KV())
		}
		kv = append(kv, gguf.KV{Key: "split.no", Value: uint16(i)}, gguf.KV{Key: "split.count", Value: uint16(n)}, gguf.KV{Key: "split.tensors.count", Value: int32(len(all))})
		if change != nil {
			kv = change(i, kv)
		}
		var tensors []gguf.Tensor
		if k := i - (n - with); k >= 0 {
			tensors = slices.Clone(all[k*len(all)/with : (k+1)*len(all)/with])
		}
		out := filepath.Join(dir, fmt.Sprintf("model-%05d-of-%05d.gguf", i+1, n))
		paths = append(paths, out)
		CopyGGUF(t, f, out, kv, tensors)
	}
	return paths
}

// CopyGGUF makes a file with the metadata and these tensors of f.
func CopyGGUF(t testing.TB, f *gguf.File, path string, kv []gguf.KV, tensors []gguf.Tensor) {
	t.Helper()
	w, err := gguf.Create(path, kv, tensors)
	require.NoError(t, err)
	for _, tensor := range tensors {
		data := make([]byte, tensor.Bytes())
		require.NoError(t, f.ReadAt(tensor.Name, data, 0))
		require.NoError(t, w.Append(tensor.Name, data))
	}
	require.NoError(t, w.Close())
}
