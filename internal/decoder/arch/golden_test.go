package arch_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// fresh names the variable with a folder of more models, drawn at random.
const fresh = "LOWBIT_ARCHITECTURES"

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

func (w fileWeights) Rows(name string, i0, i1 int, _ []float32) ([]float32, error) {
	v, err := w.ReadFloat32(name, nil)
	if err != nil {
		return nil, err
	}
	s, _ := w.Shape(name)
	n := len(v) / s[0]
	return v[i0*n : i1*n], nil
}

func (w fileWeights) Has(name string) bool {
	_, ok := w.Info(name)
	return ok
}

func (w fileWeights) Shape(name string) ([]int, bool) {
	info, ok := w.Info(name)
	return info.Shape, ok
}

// logits runs a model on sequences of equal length.
func logits(t testing.TB, dir string, config []byte, ids [][]int32) (*tensor.Matrix, *decoder.Model) {
	t.Helper()
	return logitsOf(t, dir, config, ids, nil)
}

// logitsOf is logits with blocks changed before they run.
func logitsOf(t testing.TB, dir string, config []byte, ids [][]int32, change func(*program.Block)) (*tensor.Matrix, *decoder.Model) {
	t.Helper()
	folder, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	defer folder.Close()
	return run(t, fileWeights{folder}, config, ids, change)
}

// run runs a model with weights from anywhere.
func run(t testing.TB, src program.Weights, config []byte, ids [][]int32, change func(*program.Block)) (*tensor.Matrix, *decoder.Model) {
	t.Helper()
	out, m, err := compute(src, config, ids, change)
	require.NoError(t, err)
	return out, m
}

// compute is run that gives an error back.
func compute(src program.Weights, config []byte, ids [][]int32, change func(*program.Block)) (*tensor.Matrix, *decoder.Model, error) {
	m, err := arch.ParseConfig(config)
	if err != nil {
		return nil, nil, err
	}
	if err := cmp.Or(m.Fit(src), m.CheckShapes(src)); err != nil {
		return nil, nil, err
	}
	e, err := m.LoadEmbedding(src)
	if err != nil {
		return nil, nil, err
	}
	n := len(ids[0])
	x := tensor.New(len(ids)*n, m.Hidden)
	for i, s := range ids {
		if err := e.Embed(x.View(i*n, (i+1)*n, 0, m.Hidden), s); err != nil {
			return nil, nil, err
		}
	}
	r := program.NewRunner(0)
	for _, p := range m.Blocks {
		b, err := p.Load(src)
		if err != nil {
			return nil, nil, err
		}
		if change != nil {
			change(b)
		}
		if err := r.Forward(b, x, n, nil); err != nil {
			return nil, nil, err
		}
	}
	h, err := m.LoadHead(src, e)
	if err != nil {
		return nil, nil, err
	}
	out := tensor.New(x.Rows, m.Vocab)
	h.Logits(r, out, x)
	return out, m, nil
}

// architectureDirs lists the folders of tiny random models: those of the
// repository and those in the folder that LOWBIT_ARCHITECTURES names.
func architectureDirs(t testing.TB) []string {
	files, err := filepath.Glob("../../../testdata/architectures/*/reference.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	if root := os.Getenv(fresh); root != "" {
		more, err := filepath.Glob(filepath.Join(root, "*/reference.json"))
		require.NoError(t, err)
		files = append(files, more...)
	}
	for i, f := range files {
		files[i] = filepath.Dir(f)
	}
	return files
}

// TestArchitectures compares the logits of tiny random models with those of
// Hugging Face transformers: to 2e-4 of their standard deviation.
func TestArchitectures(t *testing.T) {
	for _, dir := range architectureDirs(t) {
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
	_, err := arch.ParseConfig(config)
	if os.Getenv(fresh) != "" && errors.Is(err, decoder.ErrUnsupported) && strings.Contains(err.Error(), "groups of no fewer experts") {
		t.Skipf("drawn, and not supported: %v (how ties between experts are broken would decide)", err)
	}
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
		got, _ := logits(t, dir, config, ids)
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
