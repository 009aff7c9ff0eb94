package lowbit

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// quickArchitectures have layers that are no tensors of their own, experts,
// states, or fused tensors.
var quickArchitectures = []string{"gpt2", "granitemoe", "gpt-oss", "qwen3-next", "phi3"}

// architectureFolders lists tiny random models: a few of the repository's, or all
// in the folder that LOWBIT_ARCHITECTURES names.
func architectureFolders(t *testing.T) []string {
	if root := os.Getenv("LOWBIT_ARCHITECTURES"); root != "" {
		all, err := filepath.Glob(filepath.Join(root, "*/reference.json"))
		require.NoError(t, err)
		require.NotEmpty(t, all)
		for i := range all {
			all[i] = filepath.Dir(all[i])
		}
		return all
	}
	all := make([]string, len(quickArchitectures))
	for i, name := range quickArchitectures {
		all[i] = filepath.Join("testdata/architectures", name)
	}
	return all
}

// randomIDs are sequences of tokens of a model.
func randomIDs(t *testing.T, dir string, n, length int) [][]int32 {
	src, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer src.Close()
	m, err := arch.Open(src)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(1, 2))
	ids := make([][]int32, n)
	for i := range ids {
		for range length {
			ids[i] = append(ids[i], r.Int32N(int32(m.Vocab)))
		}
	}
	return ids
}

// logitsOf returns the logits of a model on sequences, one after the other.
func logitsOf(t *testing.T, dir string, ids [][]int32) []float32 {
	t.Helper()
	all := make([][]float32, len(ids))
	_, err := Evaluate(context.Background(), EvalOptions{
		Model: dir, Text: Text{IDs: ids}, Sequences: true,
		Logits: func(window, first int, l *tensor.Matrix) error {
			for i := range l.Rows {
				all[window] = append(all[window], l.Row(i)...)
			}
			return nil
		},
	})
	require.NoError(t, err)
	var flat []float32
	for _, l := range all {
		flat = append(flat, l...)
	}
	return flat
}

// TestArchitectureLogits compares the logits of tiny random models with those of
// Hugging Face transformers.
func TestArchitectureLogits(t *testing.T) {
	for _, dir := range architectureFolders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var ref struct {
				IDs [][]int32 `json:"input_ids"`
				Std float64   `json:"logits_std"`
			}
			data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(data, &ref))
			f, err := safetensors.Open(filepath.Join(dir, "logits.safetensors"))
			require.NoError(t, err)
			defer f.Close()
			want, err := f.ReadFloat32("logits", nil)
			require.NoError(t, err)
			require.Less(t, largestDifference(t, want, logitsOf(t, dir, ref.IDs))/ref.Std, 2e-4)
		})
	}
}

func largestDifference(t *testing.T, want, got []float32) float64 {
	t.Helper()
	require.Len(t, got, len(want))
	worst := 0.0
	for i, v := range want {
		worst = max(worst, math.Abs(float64(v)-float64(got[i])))
	}
	return worst
}

// TestArchitecturesQuantized quantizes tiny random models to every format, opens
// the results and compares their logits with those of the source's blocks with
// the dequantized weights.
func TestArchitecturesQuantized(t *testing.T) {
	formats := []string{"lowbit", "gptq", "compressed-tensors", "hqq", "dense"}
	for _, dir := range architectureFolders(t) {
		ids := randomIDs(t, dir, 3, 12)
		for _, preset := range []Preset{Plain, Best} {
			t.Run(filepath.Base(dir)+"/"+preset.String(), func(t *testing.T) {
				for _, name := range formats {
					quantizeAndCompare(t, dir, name, preset, ids)
				}
			})
		}
	}
}

func quantizeAndCompare(t *testing.T, dir, name string, preset Preset, ids [][]int32) {
	t.Helper()
	o := Options{
		Model: dir, Output: filepath.Join(t.TempDir(), name), Format: format(t, name), Preset: preset,
		Bits: 4, GroupSize: 4, Fit: FitOn, Calibration: Calibration{Text: Text{IDs: ids}, Samples: 3, SeqLen: 12},
	}
	if name != "lowbit" && name != "hqq" && name != "dense" {
		o.GroupSize = 32
	}
	r, err := Quantize(context.Background(), o)
	if err != nil && (errors.Is(err, layout.ErrUnsupported) || errors.Is(err, fitting.ErrNothing)) {
		t.Logf("%s: refused: %v", name, err)
		return
	}
	require.NoError(t, err, name)
	got := logitsOf(t, o.Output, ids)
	if name == "dense" {
		quantized := o
		quantized.Format, quantized.Output = format(t, "lowbit"), filepath.Join(t.TempDir(), "again")
		_, err := Quantize(context.Background(), quantized)
		require.NoError(t, err)
		converted := filepath.Join(t.TempDir(), "converted")
		require.NoError(t, Convert(context.Background(), ConvertOptions{Model: quantized.Output, Output: converted, Format: o.Format}))
		require.Zero(t, largestDifference(t, logitsOf(t, converted, ids), got), "dense, converted")
		require.Equal(t, shapesOf(t, dir), shapesOf(t, o.Output), "the tensors of the source")
		require.Equal(t, shapesOf(t, dir), shapesOf(t, converted), "the tensors of the source")
		return
	}
	want := replacedLogits(t, dir, o.Output, ids)
	require.Less(t, largestDifference(t, want, got), 1e-5, name)
	n := 0
	for _, l := range r.Layers {
		state := strings.Contains(strings.Join(l.Notes, " "), "steers the state")
		if state {
			require.Regexp(t, `\.(x_proj|dt_proj|in_proj_(ba|a|b))$`, l.Name)
		}
		if !l.Dense || state {
			n++
		}
	}
	t.Logf("%s: %d of %d layers", name, n, len(r.Layers))
	if name == "lowbit" || name == "hqq" {
		require.Equal(t, len(r.Layers), n, "%s: layers quantized", name)
	}
}

// shapesOf are the shapes of all tensors by name.
func shapesOf(t *testing.T, dir string) map[string][]int {
	info, err := Inspect(dir)
	require.NoError(t, err)
	shapes := map[string][]int{}
	for _, s := range info.Tensors {
		shapes[s.Name] = s.Shape
	}
	return shapes
}

// replacedLogits runs the model at dir with the dequantized weights of the one at
// quantized, and the vectors into which scales were folded.
func replacedLogits(t *testing.T, dir, quantized string, ids [][]int32) []float32 {
	t.Helper()
	q, err := checkpoint.Open(quantized)
	require.NoError(t, err)
	defer q.Close()
	src, err := checkpoint.Open(dir)
	require.NoError(t, err)
	defer src.Close()
	m, err := arch.Open(src)
	require.NoError(t, err)
	w := &walk.Walk{Model: m, Weights: src, Runner: program.NewRunner(0), SeqLen: len(ids[0])}
	e, err := m.LoadEmbedding(src)
	require.NoError(t, err)
	x, err := w.Embed(e, ids)
	require.NoError(t, err)
	require.NoError(t, w.Blocks(context.Background(), m.Layers, func(b *program.Block) error {
		replaceWeights(t, b, q)
		return w.Forward(context.Background(), b, x)
	}))
	head, err := m.LoadHead(src, e)
	require.NoError(t, err)
	out := tensor.New(x.Rows, m.Vocab)
	head.Logits(w.Runner, out, x)
	return out.Data
}

func replaceWeights(t *testing.T, b *program.Block, q *checkpoint.Model) {
	for i, l := range b.Linears {
		if _, ok := q.Layer(l.Name); !ok {
			continue
		}
		var v *quant.Weight
		v, err := q.Weight(l.Name)
		require.NoError(t, err)
		b.Linear(i).Weight = v.Dequantize()
		if l.Bias && q.Has(l.BiasName()) {
			b.Linear(i).Bias, err = q.Vector(l.BiasName())
			require.NoError(t, err)
		}
	}
	for _, s := range b.Stages {
		if s.Fold == nil {
			continue
		}
		for _, i := range s.Fold.Vectors() {
			name, _ := b.Vector(i)
			v, err := q.Vector(name)
			require.NoError(t, err)
			b.SetVector(i, v)
		}
	}
}
