package lowbit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// retyped is a copy of the embedded model whose tensors are of another type.
func retyped(t *testing.T, dtype safetensors.DType) string {
	t.Helper()
	src, err := safetensors.OpenFolder(embedded)
	require.NoError(t, err)
	defer src.Close()
	dir := t.TempDir()
	var plan []safetensors.TensorInfo
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: dtype, Shape: info.Shape})
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	defer w.Abort()
	for _, name := range src.Names() {
		v, err := src.ReadFloat32(name, nil)
		require.NoError(t, err)
		require.NoError(t, w.WriteFloat32(name, v))
	}
	require.NoError(t, w.Close())
	config, err := os.ReadFile(filepath.Join(embedded, "config.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))
	return dir
}

// TestDirect: the model that comes out is that of round-to-nearest, layer by
// layer, for every type of the source and any number of workers.
func TestDirect(t *testing.T) {
	ctx := context.Background()
	for _, dtype := range []safetensors.DType{safetensors.BF16, safetensors.F16, safetensors.F32} {
		model := embedded
		if dtype != safetensors.BF16 {
			model = retyped(t, dtype)
		}
		for i, s := range []quant.Scheme{
			{Bits: 4, GroupSize: 128},
			{Bits: 4, GroupSize: 48},
			{Bits: 3, GroupSize: 64, Symmetric: true, ScaleType: quant.F32},
			{Bits: 4, GroupSize: 64, Clip: true, MinZero: 1},
			{Bits: 4, GroupSize: 64, Axis: quant.IC},
		} {
			if dtype != safetensors.BF16 && i%2 == 1 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%+v", dtype, s), func(t *testing.T) {
				o := Options{
					Model: model, Output: filepath.Join(t.TempDir(), "out"),
					Bits: s.Bits, GroupSize: s.GroupSize, Symmetric: &s.Symmetric, ScaleType: &s.ScaleType, Clip: &s.Clip, MinZero: s.MinZero,
					Method: quant.RTN{}, Arms: []adadim.Arm{{Axis: s.Axis}}, Workers: 1 + 3*i,
				}
				r, err := Quantize(ctx, o)
				require.NoError(t, err)
				src, err := checkpoint.Open(model)
				require.NoError(t, err)
				defer src.Close()
				got, err := checkpoint.Open(o.Output)
				require.NoError(t, err)
				defer got.Close()
				require.NotEmpty(t, r.Layers)
				require.Len(t, got.Quantized(), len(r.Layers))
				for _, l := range r.Layers {
					w, err := src.Matrix(l.Name + ".weight")
					require.NoError(t, err)
					want, err := quant.RTN{}.Quantize(ctx, w, l.Scheme, nil)
					require.NoError(t, err)
					q, err := got.Weight(l.Name)
					require.NoError(t, err)
					require.True(t, slices.Equal(want.Codes, q.Codes), "codes of %s", l.Name)
					require.True(t, slices.Equal(want.Scales, q.Scales), "scales of %s", l.Name)
					require.True(t, slices.Equal(want.Zeros, q.Zeros), "zero-points of %s", l.Name)
				}
			})
		}
	}
}

// TestDirectNotFinite: a weight that is not finite has one text, which names the
// file, the tensor and the element, whatever route it is met on.
func TestDirectNotFinite(t *testing.T) {
	dir := retyped(t, safetensors.F16)
	path := filepath.Join(dir, safetensors.SingleName)
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	const layer = "model.layers.1.mlp.up_proj"
	info, ok := f.Info(layer + ".weight")
	require.True(t, ok)
	require.NoError(t, f.Close())
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	tensors := len(data) - int(lastEnd(t, path))
	at := tensors + int(info.Begin) + 2*(5*info.Shape[1]+70)
	data[at], data[at+1] = 0, 0x7c // +Inf
	require.NoError(t, os.WriteFile(path, data, 0o666))
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(embedded, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	want := fmt.Sprintf("%s: tensor %q: element %d is +Inf", path, layer+".weight", 5*info.Shape[1]+70)
	for name, edit := range map[string]func(o *Options){
		"rows":        func(o *Options) {},
		"fused":       func(o *Options) { o.Symmetric = nil },
		"columns":     func(o *Options) { o.Arms = []adadim.Arm{adadim.ArmIC()} },
		"calibration": func(o *Options) { o.Calibration = quick(t).Calibration },
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{
				Model: dir, Output: filepath.Join(t.TempDir(), "out"), GroupSize: 64, Symmetric: new(true),
				Method: quant.RTN{}, Arms: []adadim.Arm{adadim.ArmOC()},
			}
			edit(&o)
			_, err = Quantize(context.Background(), o)
			require.EqualError(t, err, want)
		})
	}
}

// lastEnd is where the data of a file's tensors end.
func lastEnd(t *testing.T, path string) (end int64) {
	t.Helper()
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for _, name := range f.Names() {
		info, _ := f.Info(name)
		end = max(end, info.End)
	}
	return end
}
