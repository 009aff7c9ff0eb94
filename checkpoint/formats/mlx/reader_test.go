package mlx

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// tensorsOf are the tensors of a module on a grid with integer zero-points:
// the biases are -s·z.
func tensorsOf(t require.TestingT, w *quant.Weight, name string) []layout.Tensor {
	codes := make([]uint8, 0, w.Out*w.In)
	line := make([]uint8, w.In)
	for r := range w.Out {
		w.Line(line, r)
		codes = append(codes, line...)
	}
	words := layout.Int32Tensor(name+suffixWeight, layout.PackRows(codes, w.Out, w.In, w.Scheme.Bits), w.Out, w.In*w.Scheme.Bits/32)
	words.DType = safetensors.U32
	biases := make([]float32, len(w.Scales))
	for i, s := range w.Scales {
		biases[i] = -s * float32(w.Zeros[i])
	}
	out := []layout.Tensor{words}
	for suffix, v := range map[string][]float32{suffixScales: w.Scales, suffixBiases: biases} {
		tn, err := layout.FloatTensor(name+suffix, safetensors.F32, v, w.Out, w.Groups())
		require.NoError(t, err)
		out = append(out, tn)
	}
	return out
}

// TestGrid: what lies on a grid with integer zero-points is read as such.
func TestGrid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.SampledFrom([]int{2, 3, 4, 5, 6, 8}).Draw(t, "bits")
		group := rapid.SampledFrom([]int{32, 64}).Draw(t, "group")
		out, in := rapid.IntRange(1, 5).Draw(t, "out"), group*rapid.IntRange(1, 3).Draw(t, "groups")
		s := quant.Scheme{Bits: bits, GroupSize: group}
		w := formattest.RandomWeight(rand.Uint64(), out, in, s, false, false)
		q, err := json.Marshal(map[string]int{"bits": bits, "group_size": group})
		require.NoError(t, err)
		require.True(t, Format{}.Detect(q))
		src := formattest.NewMemory(tensorsOf(t, w, "x")...)
		d, err := Format{}.Open(q, src)
		require.NoError(t, err)
		require.Len(t, d.Layers(), 1)
		require.Equal(t, []int{out, in}, []int{d.Layers()[0].Out, d.Layers()[0].In})
		got, err := d.Weight("x")
		require.NoError(t, err)
		require.Equal(t, w.Codes, got.Codes)
		require.Equal(t, w.Scales, got.Scales)
		require.Equal(t, w.Zeros, got.Zeros)
		m, err := d.(layout.DenseDecoder).Matrix("x")
		require.NoError(t, err)
		for i, v := range w.Dequantize().Data {
			require.InDelta(t, v, m.Data[i], 1e-6*math.Abs(float64(v))+1e-4)
		}
	})
}

func TestDetect(t *testing.T) {
	for text, want := range map[string]bool{
		`{"group_size": 64, "bits": 4}`:                         true,
		`{"group_size": 64, "bits": 4, "quant_method": "gptq"}`: false,
		`{"bits": 4}`: false, `[]`: false, `null`: false,
	} {
		require.Equal(t, want, Format{}.Detect(json.RawMessage(text)), text)
	}
}

func TestDamage(t *testing.T) {
	w := formattest.RandomWeight(1, 2, 64, quant.Scheme{Bits: 4, GroupSize: 32}, false, false)
	q := json.RawMessage(`{"bits": 4, "group_size": 32}`)
	formattest.CheckDamage(t, Format{}, q, tensorsOf(t, w, "x"), []formattest.Damage{
		{Name: "dtype", Edit: formattest.SetSpec("x.weight", safetensors.I32, 2, 8), Want: "dtype I32, want U32"},
		{Name: "part of a group", Edit: formattest.SetSpec("x.weight", safetensors.U32, 4, 4), Want: "want [4 1]"},
		{Name: "dimensions", Edit: formattest.SetSpec("x.weight", safetensors.U32, 2, 2, 4), Want: "want 2 dimensions"},
		{Name: "scales", Edit: formattest.SetSpec("x.scales", safetensors.F32, 4, 1), Want: "shape [4 1], want [2 2]"},
		{Name: "no weight", Edit: formattest.DropTensor("x.weight"), Want: `no tensor "x.weight"`},
		{Name: "no biases", Edit: formattest.DropTensor("x.biases"), Want: `no tensor "x.biases"`},
	})
	for text, want := range map[string]string{
		`{"bits": 7, "group_size": 32}`:                     "bits 7",
		`{"bits": 4, "group_size": 32, "x": {"bits": 4}}`:   "group_size 0",
		`{"bits": 4, "group_size": 32, "mode": "nvfp4"}`:    "mode nvfp4",
		`{"bits": 4, "group_size": 32, "x": {"bits": "4"}}`: "cannot unmarshal",
		`{"bits": 3, "group_size": 32}`:                     "want whole groups",
		`{"bits": 4, "group_size": 32, "mode": "mxfp4"}`:    "dtype F32, want U8",
	} {
		_, err := Format{}.Open(json.RawMessage(text), formattest.NewMemory(tensorsOf(t, w, "x")...))
		require.ErrorContains(t, err, want, text)
		require.False(t, strings.Contains(err.Error(), "\n"))
	}
}
