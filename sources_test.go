package lowbit

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// e4m3Value is the value of a byte of E4M3 that is a number.
func e4m3Value(b byte) float64 {
	v := math.Ldexp(float64(b&7|8), int(b>>3&15)-10)
	if b>>3&15 == 0 {
		v = math.Ldexp(float64(b&7), -9)
	}
	return math.Copysign(v, 0.5-float64(b>>7))
}

// coded writes a copy of a model with weights replaced by what code gives for them: nil
// leaves one as it is.
func coded(t *testing.T, model, method string, code func(name string, shape []int, v []float32) []layout.Tensor) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "coded")
	require.NoError(t, os.CopyFS(dir, os.DirFS(model)))
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	o, err := layout.ParseObject(text)
	require.NoError(t, err)
	o.Set(layout.QuantizationKey, json.RawMessage(method))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), o.Bytes(), 0o600))
	src, err := safetensors.OpenFolder(model)
	require.NoError(t, err)
	defer src.Close()
	var plan []safetensors.TensorInfo
	data := map[string][]byte{}
	add := func(name string, d safetensors.DType, shape []int, bytes []byte) {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: d, Shape: shape})
		data[name] = bytes
	}
	for _, name := range src.Names() {
		info, _ := src.Info(name)
		v, err := src.ReadFloat32(name, nil)
		require.NoError(t, err)
		made := code(name, info.Shape, v)
		for _, m := range made {
			add(m.Name, m.DType, m.Shape, m.Data)
		}
		if made == nil {
			raw, err := src.ReadBytes(name, nil)
			require.NoError(t, err)
			add(name, info.DType, info.Shape, raw)
		}
	}
	for _, pattern := range []string{"*.safetensors", "*.index.json"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		for _, f := range files {
			require.NoError(t, os.Remove(f))
		}
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	for name, b := range data {
		require.NoError(t, w.WriteTensor(name, b))
	}
	require.NoError(t, w.Close())
	return dir
}

// fp8 codes linears of blocks in blocks of 128 x 128, not to nearest but to some number.
func fp8(name string, shape []int, v []float32) []layout.Tensor {
	if !strings.HasSuffix(name, "_proj.weight") {
		return nil
	}
	q := make([]byte, len(v))
	for i, x := range v {
		q[i] = byte(math.Min(126, math.Abs(float64(x))*600)) | byte(math.Float32bits(x)>>31)<<7
	}
	rows, cols := (shape[0]+127)/128, (shape[1]+127)/128
	scales := make([]byte, 4*rows*cols)
	values := make([]float32, rows*cols)
	for i := range values {
		values[i] = 0.0003 * float32(i+1)
	}
	if err := safetensors.EncodeFloat32(scales, safetensors.F32, values); err != nil {
		panic(err)
	}
	return []layout.Tensor{
		{Spec: layout.Spec{Name: name, DType: safetensors.F8E4M3, Shape: shape}, Data: q},
		{Spec: layout.Spec{Name: name + "_scale_inv", DType: safetensors.F32, Shape: []int{rows, cols}}, Data: scales},
	}
}

const fp8Config = `{"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}`

// A model in FP8 is its values: as a dense model it has the same logits, and what is made of either
// is the same; the report says what it was; a packed format would round, which convert says.
func TestFP8Source(t *testing.T) {
	dir := coded(t, embedded, fp8Config, fp8)
	m, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer m.Close()
	const name = "model.layers.1.mlp.down_proj.weight" // 256 x 512
	w, err := m.Matrix(name)
	require.NoError(t, err)
	raw, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	defer raw.Close()
	codes, err := raw.ReadBytes(name, nil)
	require.NoError(t, err)
	for _, at := range [][2]int{{0, 0}, {127, 127}, {128, 127}, {130, 500}, {255, 511}} {
		s := 0.0003 * float32(at[0]/128*4+at[1]/128+1)
		require.Equal(t, float32(e4m3Value(codes[at[0]*512+at[1]]))*s, w.At(at[0], at[1]))
	}

	plain := filepath.Join(t.TempDir(), "dense")
	require.NoError(t, Convert(t.Context(), ConvertOptions{Model: dir, Output: plain, Format: dense.Format{}}))
	err = Convert(t.Context(), ConvertOptions{Model: dir, Output: plain + "-mlx", Format: mlx.Format{}})
	require.ErrorIs(t, err, layout.ErrUnsupported)
	require.ErrorContains(t, err, "FP8 (E4M3) with a scale for 128 x 128 (28 tensors)")

	var outs []string
	for _, model := range []string{dir, plain} {
		out := filepath.Join(t.TempDir(), "out")
		r, err := Quantize(t.Context(), Options{Model: model, Output: out, Format: native.Format{}, Method: quant.RTN{}, Arms: []adadim.Arm{adadim.ArmOC()}})
		require.NoError(t, err)
		if model == dir {
			require.Contains(t, strings.Join(r.Notes, "\n"), "requantized from FP8 (E4M3)")
			require.Less(t, r.BytesBefore, int64(5<<20), "the size is that of the files")
		}
		outs = append(outs, out)
	}
	requireSameTensors(t, outs[0], outs[1])
	text, err := os.ReadFile(filepath.Join(outs[0], "config.json"))
	require.NoError(t, err)
	require.NotContains(t, string(text), "fp8")
}

// requireSameTensors compares all values of two models.
func requireSameTensors(t *testing.T, a, b string) {
	t.Helper()
	x, err := checkpoint.Open(a)
	require.NoError(t, err)
	defer x.Close()
	y, err := checkpoint.Open(b)
	require.NoError(t, err)
	defer y.Close()
	require.ElementsMatch(t, x.Names(), y.Names())
	for _, name := range x.Names() {
		if shape, _ := x.Shape(name); len(shape) != 2 {
			continue
		}
		v, err := x.Matrix(name)
		require.NoError(t, err)
		w, err := y.Matrix(name)
		require.NoError(t, err)
		require.Equal(t, v.Data, w.Data, name)
	}
}

// What lies in MXFP4 is found again by rounding to MXFP4, and to NVFP4, whose scales hold
// powers of two of a range.
func TestFP4KeepsFP4(t *testing.T) {
	first := filepath.Join(t.TempDir(), "mxfp4")
	_, err := Quantize(t.Context(), Options{Model: embedded, Output: first, Format: compressed.Format{FP4: "mxfp4"}, Method: quant.RTN{}, Arms: []adadim.Arm{adadim.ArmOC()}})
	require.NoError(t, err)
	for _, f := range []layout.Format{compressed.Format{FP4: "mxfp4"}, compressed.Format{FP4: "nvfp4"}, mlx.Format{FP4: "mxfp4"}, mlx.Format{FP4: "nvfp4"}} {
		again := filepath.Join(t.TempDir(), "again")
		r, err := Quantize(t.Context(), Options{Model: first, Output: again, Format: f, Method: quant.RTN{}, Arms: []adadim.Arm{adadim.ArmOC()}})
		require.NoError(t, err)
		require.Contains(t, strings.Join(r.Notes, "\n"), "requantized from compressed-tensors: 28 layers of 4.25 bits a weight")
		requireSameTensors(t, first, again)
	}
}
