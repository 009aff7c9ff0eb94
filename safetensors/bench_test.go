package safetensors

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchFile is one matrix of 4096 x 4096 on disk.
func benchFile(b *testing.B, d DType) *File {
	dir := b.TempDir()
	w, err := NewWriter(dir, []TensorInfo{{Name: "a", DType: d, Shape: []int{4096, 4096}}}, Options{})
	require.NoError(b, err)
	defer w.Abort()
	values := make([]float32, 4096*4096)
	for i := range values {
		values[i] = float32(i%1001-500) * 0x1p-9
	}
	require.NoError(b, w.WriteFloat32("a", values))
	require.NoError(b, w.Close())
	f, err := Open(filepath.Join(dir, SingleName))
	require.NoError(b, err)
	b.Cleanup(func() { f.Close() })
	return f
}

// Bytes per second are those of the file, which lies in the page cache.
func BenchmarkReadFloat32(b *testing.B) {
	for _, d := range []DType{BF16, F16, F32} {
		b.Run(string(d), func(b *testing.B) {
			f := benchFile(b, d)
			info, _ := f.Info("a")
			dst := make([]float32, info.Elements())
			b.SetBytes(info.Size())
			for b.Loop() {
				if _, err := f.ReadFloat32("a", dst); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadBytes(b *testing.B) {
	f := benchFile(b, BF16)
	info, _ := f.Info("a")
	dst := make([]byte, info.Size())
	b.SetBytes(info.Size())
	for b.Loop() {
		if _, err := f.ReadBytes("a", dst); err != nil {
			b.Fatal(err)
		}
	}
}

// Writing without the sync at the end.
func BenchmarkWriteFloat32(b *testing.B) {
	for _, d := range []DType{BF16, F32} {
		b.Run(string(d), func(b *testing.B) {
			values := make([]float32, 2048*2048)
			for i := range values {
				values[i] = float32(i%1001-500) * 0x1p-9
			}
			dir := b.TempDir()
			plan := []TensorInfo{{Name: "a", DType: d, Shape: []int{2048, 2048}}}
			b.SetBytes(plan[0].Size())
			for b.Loop() {
				w, err := NewWriter(dir, plan, Options{})
				if err == nil {
					err = w.WriteFloat32("a", values)
				}
				if err != nil {
					b.Fatal(err)
				}
				w.Abort()
			}
		})
	}
}

// The header of a model of 100 layers and 12 tensors each.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	var plan []TensorInfo
	for i := range 1200 {
		plan = append(plan, TensorInfo{Name: fmt.Sprintf("model.layers.%d.mlp.down_proj.weight_%d", i/12, i%12), DType: BF16, Shape: []int{0, 8192}})
	}
	w, err := NewWriter(dir, plan, Options{})
	require.NoError(b, err)
	require.NoError(b, w.Close())
	path := filepath.Join(dir, SingleName)
	st, err := os.Stat(path)
	require.NoError(b, err)
	b.SetBytes(st.Size())
	for b.Loop() {
		f, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}
