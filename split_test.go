package lowbit

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
)

// ggufOf writes the embedded model as a GGUF file that is not quantized.
func ggufOf(t *testing.T) string {
	t.Helper()
	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	defer src.Close()
	path := filepath.Join(t.TempDir(), "whole.gguf")
	require.NoError(t, ggufmodel.Format{Dense: "BF16"}.Write(t.Context(), path, src, nil, nil))
	return path
}

// A model in parts is the model, whatever part, or the folder, is named: for every verb.
func TestSplitModel(t *testing.T) {
	whole, dir := ggufOf(t), t.TempDir()
	quantized := filepath.Join(t.TempDir(), "quantized.gguf")
	_, err := Quantize(t.Context(), Options{Model: whole, Output: quantized, Format: ggufmodel.Format{Type: "Q4_K_M"}, Method: quant.RTN{}})
	require.NoError(t, err)
	text := Text{IDs: randomIDs(t, embedded, 2, 64)}
	want, err := Evaluate(t.Context(), EvalOptions{Model: quantized, Text: text, Sequences: true})
	require.NoError(t, err)
	wantInfo, err := Inspect(quantized)
	require.NoError(t, err)
	wantDense := filepath.Join(t.TempDir(), "dense")
	require.NoError(t, Convert(t.Context(), ConvertOptions{Model: quantized, Output: wantDense, Format: dense.Format{}}))

	parts := testkit.SplitGGUF(t, quantized, dir, 3, true, nil)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mmproj-model.gguf"), []byte("GGUF"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600))
	for _, path := range append(parts, dir) {
		info, err := Inspect(path)
		require.NoError(t, err)
		require.Equal(t, wantInfo.Tensors, info.Tensors)
		require.Equal(t, wantInfo.Quantized, info.Quantized)
		require.Equal(t, sizeOf(t, parts), info.FileBytes)
		got, err := Evaluate(t.Context(), EvalOptions{Model: path, Text: text, Sequences: true})
		require.NoError(t, err)
		require.Equal(t, want.Perplexity, got.Perplexity)
		out := filepath.Join(t.TempDir(), "dense")
		require.NoError(t, Convert(t.Context(), ConvertOptions{Model: path, Output: out, Format: dense.Format{}}))
		requireSameFolder(t, wantDense, out)
	}

	unquantized := t.TempDir()
	parts = testkit.SplitGGUF(t, whole, unquantized, 4, false, nil)
	for _, path := range []string{parts[2], unquantized} {
		out := filepath.Join(t.TempDir(), "quantized.gguf")
		r, err := Quantize(t.Context(), Options{Model: path, Output: out, Format: ggufmodel.Format{Type: "Q4_K_M"}, Method: quant.RTN{}})
		require.NoError(t, err)
		require.Equal(t, sizeOf(t, parts), r.BytesBefore)
		again, err := Evaluate(t.Context(), EvalOptions{Model: out, Text: text, Sequences: true})
		require.NoError(t, err)
		require.Equal(t, want.Perplexity, again.Perplexity)
	}
}

func sizeOf(t *testing.T, files []string) (sum int64) {
	t.Helper()
	for _, path := range files {
		st, err := os.Stat(path)
		require.NoError(t, err)
		sum += st.Size()
	}
	return sum
}

// An interrupted run is not taken up with another part in place of one.
func TestSplitModelResume(t *testing.T) {
	dir := t.TempDir()
	parts := testkit.SplitGGUF(t, ggufOf(t), dir, 2, true, nil)
	o := quick(t)
	o.Model = parts[1]
	ctx, cancel := context.WithCancel(t.Context())
	o.Events = func(e Event) {
		if e.Kind == EventLayer {
			cancel()
		}
	}
	_, err := Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	o.Events, o.Resume = nil, true
	data, err := os.ReadFile(parts[1])
	require.NoError(t, err)
	data[len(data)-40] ^= 1
	require.NoError(t, os.WriteFile(parts[1], data, 0o600))
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, checkpoint.ErrResume)
	data[len(data)-40] ^= 1
	require.NoError(t, os.WriteFile(parts[1], data, 0o600))
	o.Model = dir
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
}

func TestSplitModelRefuses(t *testing.T) {
	dir := t.TempDir()
	parts := testkit.SplitGGUF(t, ggufOf(t), dir, 3, false, nil)
	require.NoError(t, os.Rename(parts[0], filepath.Join(t.TempDir(), "away")))
	for _, path := range []string{parts[1], dir} {
		_, err := Inspect(path)
		require.ErrorContains(t, err, filepath.Base(parts[0]))
	}
	several := t.TempDir()
	for _, name := range []string{"a.gguf", "b.gguf"} {
		require.NoError(t, os.WriteFile(filepath.Join(several, name), []byte("GGUF"), 0o600))
	}
	_, err := Inspect(several)
	require.ErrorContains(t, err, "2 models, a.gguf and b.gguf among them")
}
