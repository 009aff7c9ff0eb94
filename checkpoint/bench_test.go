package checkpoint

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// BenchmarkWriter writes four layers of 2048 x 2048 at 4 bits, synced to the
// disk; bytes are those of the result.
func BenchmarkWriter(b *testing.B) {
	const n, size = 4, 2048
	source := b.TempDir()
	var plan []safetensors.TensorInfo
	var layers []layout.Layer
	q := formattest.RandomWeight(1, size, size, quant.Scheme{Bits: 4, GroupSize: 128}, false, false)
	for i := range n {
		layers = append(layers, layout.LayerOf(fmt.Sprintf("fc%d", i), q))
		plan = append(plan, safetensors.TensorInfo{Name: layers[i].Name + ".weight", DType: safetensors.BF16, Shape: []int{size, size}})
	}
	out, err := safetensors.NewWriter(source, plan, safetensors.Options{})
	require.NoError(b, err)
	for _, p := range plan {
		require.NoError(b, out.WriteTensor(p.Name, make([]byte, p.Size())))
	}
	require.NoError(b, out.Close())
	require.NoError(b, os.WriteFile(filepath.Join(source, layout.ConfigFile), []byte("{}"), 0o666))
	src := openModel(b, source)

	for _, direct := range []bool{true, false} {
		b.Run(map[bool]string{true: "direct", false: "spooled"}[direct], func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				o := WriterOptions{Out: filepath.Join(dir, fmt.Sprint(i)), Source: src, Format: native.Format{}, Layers: layers, Direct: direct}
				o.Progress = func(_, total int64) { b.SetBytes(total) }
				w, err := Create(o)
				require.NoError(b, err)
				require.NoError(b, parallel.For(context.Background(), 0, n, func(i int) error {
					return w.Put(layers[i].Name, q, nil)
				}))
				require.NoError(b, w.Finish(context.Background()))
				b.StopTimer()
				require.NoError(b, os.RemoveAll(o.Out))
				b.StartTimer()
			}
		})
	}
}
