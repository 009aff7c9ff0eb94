package compressed

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/internal/formattest"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// TestFP4: what the library has packed (compressed-tensors 0.20.0, compress and decompress
// of 2 rows of 64 weights) is read as a weight of the same values, and written again the
// same, zeros with a sign aside. The scheme says what the library's own preset does.
func TestFP4(t *testing.T) {
	text, err := os.ReadFile("testdata/fp4.json")
	require.NoError(t, err)
	var cases map[string]struct {
		Packed  string          `json:"packed"`
		Scale   string          `json:"scale"`
		Values  []float32       `json:"values"`
		Weights json.RawMessage `json:"weights"`
	}
	require.NoError(t, json.Unmarshal(text, &cases))
	require.Len(t, cases, 2)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			scheme, ok := Format{FP4: name}.Main()
			require.True(t, ok)
			l := layout.Layer{Name: "x", Out: 2, In: 64, Scheme: scheme}
			specs, err := Format{}.Plan(l)
			require.NoError(t, err)
			var tensors []layout.Tensor
			for i, text := range []string{c.Packed, c.Scale, "00008043"}[:len(specs)] { // 256
				data, err := hex.DecodeString(text)
				require.NoError(t, err)
				require.EqualValues(t, specs[i].Bytes(), len(data))
				tensors = append(tensors, layout.Tensor{Spec: specs[i], Data: data})
			}
			q := formattest.QuantizationOf(t, Format{}, l)
			var got, want map[string]any
			var config struct {
				Format string `json:"format"`
				Groups map[string]struct {
					Format  string         `json:"format"`
					Weights map[string]any `json:"weights"`
				} `json:"config_groups"`
			}
			require.NoError(t, json.Unmarshal(q, &config))
			require.Equal(t, name+"-pack-quantized", config.Format)
			require.Equal(t, config.Format, config.Groups["group_0"].Format)
			got = config.Groups["group_0"].Weights
			require.NoError(t, json.Unmarshal(c.Weights, &want))
			for key, v := range got {
				require.Equal(t, want[key], v, key)
			}
			require.Equal(t, want["scale_dtype"], got["scale_dtype"])
			layer, w := formattest.ReadBack(t, Format{}, q, tensors)
			require.Equal(t, scheme, layer.Scheme)
			require.Equal(t, c.Values, w.Dequantize().Data) // 0 is -0
			again, err := Format{}.Encode(l, w)
			require.NoError(t, err)
			require.Equal(t, tensors[1:], again[1:])
			for i, b := range tensors[0].Data {
				for shift := 0; shift < 8; shift += 4 {
					was, is := b>>shift&15, again[0].Data[i]>>shift&15
					require.True(t, was == is || was == 8 && is == 0, "byte %d: %#x, %#x", i, b, again[0].Data[i])
				}
			}
		})
	}
}

// TestFP4Damage: what cannot be read is said by its name.
func TestFP4Damage(t *testing.T) {
	l := layout.Layer{Name: "x", Out: 4, In: 32, Scheme: kquant.TensorScaled().Scheme()}
	w := quant.NewWeight(4, 32, l.Scheme)
	for i := range w.Scales {
		w.Scales[i] = 0x1p-8
	}
	tensors, err := Format{}.Encode(l, w)
	require.NoError(t, err)
	q := formattest.QuantizationOf(t, Format{}, l)
	config := func(more string) string {
		return `{"quant_method":"compressed-tensors","format":"nvfp4-pack-quantized","config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":4,"type":"float","strategy":"tensor_group","group_size":16` + more + `}}}}`
	}
	formattest.CheckDamage(t, Format{}, q, tensors, []formattest.Damage{
		{Name: "group", Config: config(`,"group_size":32`), Want: "floats of 4 bits with strategy \"tensor_group\""},
		{Name: "symmetric", Config: config(`,"symmetric":false`), Want: "floats of 4 bits"},
		{Name: "dtype", Edit: formattest.SetSpec("x.weight_packed", safetensors.I32, 4, 4), Want: "dtype I32, want U8"},
		{Name: "scales", Edit: formattest.SetSpec("x.weight_scale", safetensors.U8, 4, 2), Want: "dtype U8, want F8_E4M3"},
		{Name: "part of a group", Edit: formattest.SetSpec("x.weight_packed", safetensors.U8, 16, 4), Want: "want whole groups of 16 values"},
		{Name: "no global scale", Edit: formattest.DropTensor("x.weight_global_scale"), Want: `no tensor "x.weight_global_scale"`},
		{Name: "global scale", Edit: formattest.SetBytes("x.weight_global_scale", 0, 0, 0, 0, 0), Want: "0, want a positive number"},
		{Name: "no number", Edit: formattest.SetBytes("x.weight_scale", 1, 0x7f), Want: "scale 0x7f is no number"},
	})
}

// TestGlobalScale: without a scale of the whole tensor it is 1; with any other number a
// layer is dense, its scales divided.
func TestGlobalScale(t *testing.T) {
	grid, _ := kquant.Of(gguf.NVFP4)
	l := layout.Layer{Name: "x", Out: 4, In: 32, Scheme: grid.Scheme()}
	w := quant.NewWeight(4, 32, l.Scheme)
	for i := range w.Scales {
		w.Scales[i] = float32(i + 1)
	}
	tensors, err := Format{}.Encode(l, w)
	require.NoError(t, err)
	require.Equal(t, binary.LittleEndian.AppendUint32(nil, math.Float32bits(1)), tensors[2].Data)
	q := formattest.QuantizationOf(t, Format{}, l)
	layer, back := formattest.ReadBack(t, Format{}, q, tensors)
	require.Equal(t, l.Scheme, layer.Scheme)
	formattest.RequireSame(t, w, back)
	tensors[2].Data = binary.LittleEndian.AppendUint32(nil, math.Float32bits(300))
	d, err := Format{}.Open(q, formattest.NewMemory(tensors...))
	require.NoError(t, err)
	_, err = d.Weight("x")
	require.ErrorIs(t, err, layout.ErrNotWeight)
	require.ErrorContains(t, err, "x.weight_global_scale")
	m, err := d.(layout.DenseDecoder).Matrix("x")
	require.NoError(t, err)
	for i := range w.Scales {
		w.Scales[i] /= 300
	}
	require.Equal(t, w.Dequantize(), m)
}

// TestFP4Mixed: layers of both grids and of integers are groups of their own.
func TestFP4Mixed(t *testing.T) {
	layer := func(name string, s quant.Scheme) layout.Layer {
		return layout.Layer{Name: name, Out: 4, In: 32, Scheme: s}
	}
	mx, _ := Format{FP4: "mxfp4"}.Main()
	got, err := Format{}.Config(layout.Contents{
		Layers: []layout.Layer{layer("a", mx), layer("b", quant.Scheme{Bits: 8, GroupSize: 32, Symmetric: true})},
		Config: json.RawMessage(`{"torch_dtype":"bfloat16"}`),
	})
	require.NoError(t, err)
	groups, err := parseConfig(got.Quantization)
	require.NoError(t, err)
	require.Contains(t, string(got.Quantization), `"mixed-precision"`)
	require.Equal(t, []string{"mxfp4-pack-quantized", "pack-quantized"}, []string{groups[0].Format, groups[1].Format})
	w, err := matchTarget(groups, "a")
	require.NoError(t, err)
	require.Equal(t, "mxfp4", w.float)
	w, err = matchTarget(groups, "b")
	require.NoError(t, err)
	require.Empty(t, w.float)
	alone, err := Format{}.Config(layout.Contents{Layers: []layout.Layer{layer("a", mx)}, Config: json.RawMessage(`{"torch_dtype":"bfloat16"}`)})
	require.NoError(t, err)
	require.Empty(t, alone.Set, "no half floats: the model stays as it is")
	require.NotEmpty(t, got.Set)
}
