package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// quantized writes the embedded model rounded to nearest, and returns its path.
func quantized(t *testing.T, bits int) string {
	t.Helper()
	format, err := checkpoint.Lookup("compressed-tensors")
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "quantized")
	_, err = lowbit.Quantize(t.Context(), lowbit.Options{
		Model: model, Output: out, Format: format, Method: quant.RTN{}, Bits: bits, GroupSize: 64,
	})
	require.NoError(t, err)
	return out
}

const model = "../../../testdata/" + embedded

// TestSameWeights: weights are compared in the type that the other side has, and
// another weight is found.
func TestSameWeights(t *testing.T) {
	format, err := checkpoint.Lookup("dense")
	require.NoError(t, err)
	four, three, wide := quantized(t, 4), quantized(t, 3), filepath.Join(t.TempDir(), "wide")
	require.NoError(t, lowbit.Convert(t.Context(), lowbit.ConvertOptions{Model: four, Output: wide, Format: format}))
	dtype, err := sameWeights(made{path: four, weights: wide})
	require.NoError(t, err)
	require.Equal(t, safetensors.BF16, dtype)
	_, err = sameWeights(made{path: three, weights: wide})
	require.ErrorContains(t, err, "in BF16")
	require.ErrorContains(t, err, "model.layers.0.")
	_, err = sameWeights(made{path: model, weights: wide})
	require.ErrorContains(t, err, "nothing in it is quantized")
}

// TestPerplexity: of logits, the same as the model's.
func TestPerplexity(t *testing.T) {
	ids := [][]int32{{1, 15, 7, 300, 21}, {1, 3, 3, 90, 4}}
	l, err := logits(t.Context(), model, ids, nil)
	require.NoError(t, err)
	e, err := lowbit.Evaluate(t.Context(), lowbit.EvalOptions{Model: model, Text: lowbit.Text{IDs: ids}, Sequences: true})
	require.NoError(t, err)
	require.InEpsilon(t, e.Perplexity, perplexity(l, ids), 1e-6)
}

// TestConvert: a file must be convertible to what its tool's entry says.
func TestConvert(t *testing.T) {
	ids := [][]int32{{1, 15, 7, 300, 21}}
	path := quantized(t, 4)
	ours, err := logits(t.Context(), path, ids, nil)
	require.NoError(t, err)
	r := reading{ids: ids}
	require.NoError(t, r.convert(t.Context(), made{Name: "a", path: path}, ours))
	require.Contains(t, r.converted, "gptq_v2 0")

	again := quantized(t, 4)
	r = reading{ids: ids, p: peer{dense: []string{"a"}}}
	require.ErrorContains(t, r.convert(t.Context(), made{Name: "a", path: again}, ours), "that it can only be dense: true")

	again = quantized(t, 3)
	require.ErrorContains(t, r.convert(t.Context(), made{Name: "a", path: again}, ours), "its logits differ by")
}
