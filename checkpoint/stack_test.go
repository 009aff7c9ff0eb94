package checkpoint

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// TestStackedExperts: experts of which others have tensors each lie in one where the
// format has it so, quantized or not, in whatever order they come, and are read one by
// one. Those that are unlike are refused before the work.
func TestStackedExperts(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "config.json", `{"model_type": "mixtral", "torch_dtype": "float32"}`)
	const block = "model.layers.0.block_sparse_moe."
	var plan []safetensors.TensorInfo
	for _, name := range []string{"experts.1.w1", "gate", "experts.0.w1", "experts.0.w2", "experts.1.w2"} {
		plan = append(plan, safetensors.TensorInfo{Name: block + name + ".weight", DType: safetensors.F32, Shape: []int{4, 64}})
	}
	out, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	for i, p := range plan {
		data, values := make([]byte, p.Size()), make([]float32, 256)
		for j := range values {
			values[j] = float32((j*7+i*31)%113) - 40
		}
		require.NoError(t, safetensors.EncodeFloat32(data, p.DType, values))
		require.NoError(t, out.WriteTensor(p.Name, data))
	}
	require.NoError(t, out.Close())
	src := openModel(t, dir)
	scheme := mlx.Format{}.Own(quant.Scheme{Bits: 4, GroupSize: 32})
	layers := []layout.Layer{{Name: block + "experts.0.w1", Scheme: scheme}, {Name: block + "experts.1.w1", Scheme: scheme}}
	for _, direct := range []bool{false, true} {
		o := WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: src, Format: mlx.Format{}, Layers: layers, Direct: direct}
		w, err := Create(o)
		require.NoError(t, err)
		want := map[string][]float32{}
		for _, l := range layers {
			m, err := src.Matrix(l.Name + ".weight")
			require.NoError(t, err)
			q, err := quant.RTN{}.Quantize(t.Context(), m, scheme, nil)
			require.NoError(t, err)
			want[l.Name+".weight"] = q.Dequantize().Data
			require.NoError(t, w.Put(l.Name, q, nil))
		}
		require.NoError(t, w.Finish(t.Context()))
		stored, err := safetensors.OpenFolder(o.Out)
		require.NoError(t, err)
		shapes := map[string]string{}
		for _, name := range stored.Names() {
			info, _ := stored.Info(name)
			shapes[name] = fmt.Sprintf("%v %v", info.DType, info.Shape)
		}
		require.NoError(t, stored.Close())
		require.Equal(t, map[string]string{
			block + "gate.weight":                 "F32 [4 64]",
			block + "switch_mlp.gate_proj.weight": "U32 [2 4 8]",
			block + "switch_mlp.gate_proj.scales": "F16 [2 4 2]",
			block + "switch_mlp.gate_proj.biases": "F16 [2 4 2]",
			block + "switch_mlp.down_proj.weight": "F32 [2 4 64]",
		}, shapes)
		back := openModel(t, o.Out)
		converted := o.Out + "-dense"
		require.NoError(t, Convert(context.Background(), WriterOptions{Out: converted, Source: back, Format: dense.Format{}}))
		for _, m := range []*Model{back, openModel(t, converted)} {
			require.ElementsMatch(t, src.Names(), m.Names())
			for _, p := range plan {
				got, err := m.Matrix(p.Name)
				require.NoError(t, err)
				if want[p.Name] == nil {
					unchanged, err := src.Matrix(p.Name)
					require.NoError(t, err)
					want[p.Name] = unchanged.Data
				}
				require.Equal(t, want[p.Name], got.Data, p.Name)
			}
		}
	}
	for text, layers := range map[string][]layout.Layer{
		"quantize them alike, or neither": layers[:1],
		"U32 [4 12]":                      {layers[0], {Name: layers[1].Name, Scheme: mlx.Format{}.Own(quant.Scheme{Bits: 6, GroupSize: 32})}},
	} {
		_, err = Create(WriterOptions{Out: filepath.Join(t.TempDir(), "out"), Source: src, Format: mlx.Format{}, Layers: layers})
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.ErrorContains(t, err, text)
	}
}
