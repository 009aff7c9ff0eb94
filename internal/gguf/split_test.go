package gguf_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/testkit"
)

// whole is a file of five tensors.
func whole(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "whole.gguf")
	var tensors []gguf.Tensor
	for i := range 5 {
		tensors = append(tensors, gguf.Tensor{Name: string(rune('a' + i)), Type: gguf.F32, Dims: []int{i + 1}})
	}
	w, err := gguf.Create(path, []gguf.KV{{Key: "general.architecture", Value: "llama"}, {Key: "n", Value: uint32(7)}}, tensors)
	require.NoError(t, err)
	for i, tensor := range tensors {
		require.NoError(t, w.Append(tensor.Name, slices.Repeat([]byte{byte(i + 1)}, int(tensor.Bytes()))))
	}
	require.NoError(t, w.Close())
	return path
}

// Whatever part is named, all are one file, with the metadata of the first.
func TestParts(t *testing.T) {
	path := whole(t)
	for _, bare := range []bool{false, true} {
		parts := testkit.SplitGGUF(t, path, t.TempDir(), 3, bare, nil)
		for _, part := range parts {
			require.Equal(t, parts, gguf.Parts(part))
			f, err := gguf.OpenParts(part)
			require.NoError(t, err)
			v, ok := f.Value("n")
			require.True(t, ok)
			require.EqualValues(t, 7, v)
			require.Len(t, f.Tensors(), 5)
			for i, tensor := range f.Tensors() {
				require.Equal(t, string(rune('a'+i)), tensor.Name)
				data := make([]byte, tensor.Bytes())
				require.NoError(t, f.ReadAt(tensor.Name, data, 0))
				require.Equal(t, slices.Repeat([]byte{byte(i + 1)}, 4*(i+1)), data)
				require.Error(t, f.ReadAt(tensor.Name, data, 1))
				require.Contains(t, parts, f.Path(tensor.Name))
			}
			require.Equal(t, parts[2], f.Path("e"))
			require.NoError(t, f.Close())
		}
	}
	f, err := gguf.OpenParts(path)
	require.NoError(t, err)
	require.Equal(t, path, f.Path("a"))
	require.NoError(t, f.Close())
	for _, name := range []string{"x.gguf", "x-00000-of-00002.gguf", "x-00003-of-00002.gguf", "x-1-of-2.gguf", "x-00001-of-00002.bin"} {
		require.Equal(t, []string{name}, gguf.Parts(name))
	}
}

func TestPartsRefuse(t *testing.T) {
	path := whole(t)
	set := func(part int, key string, value any) func(i int, kv []gguf.KV) []gguf.KV {
		return func(i int, kv []gguf.KV) []gguf.KV {
			if i != part {
				return kv
			}
			kv = slices.DeleteFunc(kv, func(e gguf.KV) bool { return e.Key == key })
			return append(kv, gguf.KV{Key: key, Value: value})
		}
	}
	for _, c := range []struct {
		change func(i int, kv []gguf.KV) []gguf.KV
		after  func(parts []string) error
		want   string
	}{
		{nil, func(p []string) error { return os.Remove(p[1]) }, "part 2 of 3: open"},
		{nil, func(p []string) error { return os.Rename(p[1], p[2]) }, "part 2 of 3: open"},
		{nil, func(p []string) error { return copyFile(p[1], p[2]) }, `key "split.no" is 1, want 2 of part 3 of 3`},
		{nil, func(p []string) error { return copyFile(path, p[2]) }, `key "split.no" is -1, want 2`},
		{set(1, "split.count", uint16(4)), nil, `key "split.count" is 4, want 3`},
		{set(2, "split.no", "2"), nil, "want a whole number"},
		{set(2, "split.tensors.count", int32(6)), nil, `"split.tensors.count" is 6, and 5 in the first part`},
		{set(2, "general.architecture", "qwen2"), nil, "qwen2, and llama in the first part"},
		{func(i int, kv []gguf.KV) []gguf.KV { return set(i, "split.tensors.count", int32(6))(i, kv) }, nil, "5 tensors in 3 parts, want 6"},
		{func(i int, kv []gguf.KV) []gguf.KV { return set(i, "split.count", uint16(2))(i, kv) }, nil, "-00001-of-00002.gguf"},
		{nil, func(p []string) error { return os.Truncate(p[1], 100) }, "part 2 of 3"},
	} {
		parts := testkit.SplitGGUF(t, path, t.TempDir(), 3, false, c.change)
		if c.after != nil {
			require.NoError(t, c.after(parts))
		}
		_, err := gguf.OpenParts(parts[0])
		require.ErrorContains(t, err, c.want)
	}
	parts := testkit.SplitGGUF(t, path, t.TempDir(), 3, false, nil)
	require.NoError(t, os.Remove(parts[0]))
	_, err := gguf.OpenParts(parts[2])
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, parts[0])
	_, err = gguf.OpenParts(parts[0])
	require.ErrorIs(t, err, fs.ErrNotExist)
	renamed := filepath.Join(t.TempDir(), "model.gguf")
	require.NoError(t, os.Rename(parts[1], renamed))
	_, err = gguf.OpenParts(renamed)
	require.ErrorContains(t, err, "one of 3 parts")

	// The same tensor in two parts.
	two := testkit.SplitGGUF(t, path, t.TempDir(), 2, false, nil)
	other := testkit.SplitGGUF(t, path, t.TempDir(), 2, true, nil)
	require.NoError(t, copyFile(other[1], two[1]))
	_, err = gguf.OpenParts(two[0])
	require.ErrorContains(t, err, `tensor "a" is in`)
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}
