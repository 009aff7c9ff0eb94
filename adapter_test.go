package lowbit

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/quant"
)

// writeAdapter writes a LoRA adapter of rank 1 for one linear of the embedded
// model: A is 1 at input 3, B is 0.5 at output 2.
func writeAdapter(t *testing.T, linear string, out, in int) string {
	t.Helper()
	dir := t.TempDir()
	a, b := make([]byte, 4*in), make([]byte, 4*out)
	binary.LittleEndian.PutUint32(a[12:], 0x3f800000)
	binary.LittleEndian.PutUint32(b[8:], 0x3f000000)
	prefix := "base_model.model." + linear
	head, err := json.Marshal(map[string]any{
		prefix + ".lora_A.weight": map[string]any{"dtype": "F32", "shape": []int{1, in}, "data_offsets": []int{0, len(a)}},
		prefix + ".lora_B.weight": map[string]any{"dtype": "F32", "shape": []int{out, 1}, "data_offsets": []int{len(a), len(a) + len(b)}},
	})
	require.NoError(t, err)
	file := slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head, a, b)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "adapter_model.safetensors"), file, 0o666))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "adapter_config.json"), []byte(`{"peft_type": "LORA", "r": 1, "lora_alpha": 2}`), 0o666))
	return dir
}

// TestAdapter takes a LoRA adapter through quantizing, evaluation and convert.
func TestAdapter(t *testing.T) {
	ctx := context.Background()
	adapter := writeAdapter(t, "model.layers.1.mlp.down_proj", 256, 512)
	_, err := Inspect(adapter)
	require.ErrorContains(t, err, "names no base")
	info, err := InspectAdapter(adapter, embedded)
	require.NoError(t, err)
	require.Equal(t, 4, info.Blocks)

	merged := filepath.Join(t.TempDir(), "merged")
	require.NoError(t, Convert(ctx, ConvertOptions{Model: adapter, Base: embedded, Output: merged, Format: dense.Format{}}))
	of := func(path, base string) float32 {
		m, err := openModel(path, base)
		require.NoError(t, err)
		defer m.Close()
		w, err := m.Matrix("model.layers.1.mlp.down_proj.weight")
		require.NoError(t, err)
		return w.At(2, 3)
	}
	require.Equal(t, of(embedded, "")+1, of(merged, "")) // 2/1 · 0.5 · 1
	require.Equal(t, of(merged, ""), of(adapter, embedded))

	var made [2]*checkpoint.Model
	for i, o := range []Options{{Model: adapter, Base: embedded}, {Model: merged}} {
		o.Output, o.Method, o.Axis = filepath.Join(t.TempDir(), "out"), quant.RTN{}, AxisOC
		_, err := Quantize(ctx, o)
		require.NoError(t, err)
		made[i], err = checkpoint.Open(o.Output)
		require.NoError(t, err)
		defer made[i].Close()
	}
	for _, l := range made[0].Layers() {
		want, err := made[1].Weight(l.Name)
		require.NoError(t, err)
		got, err := made[0].Weight(l.Name)
		require.NoError(t, err)
		require.True(t, slices.Equal(want.Codes, got.Codes) && slices.Equal(want.Scales, got.Scales), l.Name)
	}

	_, err = Quantize(ctx, Options{Model: embedded, Base: embedded, Output: filepath.Join(t.TempDir(), "out")})
	require.ErrorIs(t, err, ErrOptions)
	require.ErrorContains(t, err, "is no LoRA adapter")
}
