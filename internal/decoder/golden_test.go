package decoder_test

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// fileWeights gives the weights of an unquantized folder.
type fileWeights struct{ *safetensors.Folder }

func (w fileWeights) Matrix(name string) (*tensor.Matrix, error) {
	v, err := w.ReadFloat32(name, nil)
	if err != nil {
		return nil, err
	}
	s, _ := w.Shape(name)
	return tensor.FromSlice(s[0], s[1], v), nil
}

func (w fileWeights) Vector(name string) ([]float32, error) { return w.ReadFloat32(name, nil) }

func (w fileWeights) Has(name string) bool {
	_, ok := w.Info(name)
	return ok
}

func (w fileWeights) Shape(name string) ([]int, bool) {
	info, ok := w.Info(name)
	return info.Shape, ok
}

// logits runs a model on sequences of equal length.
func (m *inMemory) logits(ids [][]int32) (*tensor.Matrix, error) {
	var all []int32
	for _, s := range ids {
		all = append(all, s...)
	}
	x, err := m.hidden(all, len(ids[0]))
	if err != nil {
		return nil, err
	}
	out := tensor.New(x.Rows, m.Vocab)
	m.runner.Logits(m.head, out, x)
	return out, nil
}

// TestArchitectures compares the logits of tiny random models with those of
// Hugging Face transformers: to 2e-4 of their standard deviation.
func TestArchitectures(t *testing.T) {
	dirs, err := filepath.Glob("../../testdata/architectures/*/reference.json")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	root := os.Getenv("LOWBIT_ARCHITECTURES") // more of them, if set
	if root != "" {
		more, err := filepath.Glob(filepath.Join(root, "*/reference.json"))
		require.NoError(t, err)
		dirs = append(dirs, more...)
	}
	for _, path := range dirs {
		dir := filepath.Dir(path)
		for _, config := range []string{"config.json", "config.v4.json"} {
			data, err := os.ReadFile(filepath.Join(dir, config))
			if os.IsNotExist(err) {
				continue
			}
			require.NoError(t, err)
			t.Run(filepath.Base(dir)+"/"+config, func(t *testing.T) { compareLogits(t, dir, data) })
		}
	}
}

func compareLogits(t *testing.T, dir string, config []byte) {
	var ref struct {
		IDs   [][]int32 `json:"input_ids"`
		Std   float64   `json:"logits_std"`
		Short int       `json:"short_length"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &ref))
	f, err := safetensors.Open(filepath.Join(dir, "logits.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	check := func(name string, ids [][]int32) {
		want, err := f.ReadFloat32(name, nil)
		require.NoError(t, err)
		got, err := loadFolder(t, dir, config).logits(ids)
		require.NoError(t, err)
		require.Len(t, got.Data, len(want))
		worst := 0.0
		for i, v := range want {
			worst = max(worst, math.Abs(float64(v)-float64(got.Data[i])))
		}
		t.Logf("%s: largest difference %.2g of the standard deviation", name, worst/ref.Std)
		require.Less(t, worst/ref.Std, 2e-4, name)
	}
	check("logits", ref.IDs)
	if ref.Short > 0 {
		short := make([][]int32, len(ref.IDs))
		for i, ids := range ref.IDs {
			short[i] = ids[:ref.Short]
		}
		check("logits_short", short)
	}
}
