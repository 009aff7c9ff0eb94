package lowbit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// typeRow has the divergences of a file type as docs/gguf.md tells them.
type typeRow struct {
	Type    string  `json:"type"`
	Holds   string  `json:"holds"` // the types that linears have, where they are others
	Bits    float64 `json:"bits"`
	Best    float64 `json:"best"`
	Fast    float64 `json:"fast"`
	Imatrix float64 `json:"imatrix"` // of ggml, with an importance matrix
	RTN     float64 `json:"rtn"`
	Plain   float64 `json:"plain"` // of ggml, without
	// Matrix is with an importance matrix for text, GGMLMatrix ggml's with the same one.
	Matrix     float64 `json:"matrix"`
	GGMLMatrix float64 `json:"ggml_matrix"`
}

func typeRows(t *testing.T, file string) []typeRow {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "golden", file))
	require.NoError(t, err)
	var rows []typeRow
	require.NoError(t, json.Unmarshal(data, &rows))
	require.NotEmpty(t, rows)
	return rows
}

// docs/gguf.md says what was measured, and that `best` loses far less than
// llama-quantize with an importance matrix, and rounding no more than it without.
func TestGGUFTypesPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("docs", "gguf.md"))
	require.NoError(t, err)
	digits := func(v float64, n int) string { return strings.TrimPrefix(fmt.Sprintf("%.*f", n, v), "0") }
	short := func(v float64) string { return digits(v, 4) }
	five := func(v float64) string { return digits(v, 5) }
	for _, r := range typeRows(t, "gguf_types_tinystories.json") {
		require.Less(t, r.Best/r.Imatrix, 0.65, r.Type)
		require.Less(t, r.RTN/r.Plain, 1.0, r.Type)
		require.Contains(t, string(page), fmt.Sprintf("| %s | %s | %.3f | %s | %s | %s | %.2f | %s | %s | %.2f |\n", r.Type, r.Holds, r.Bits,
			five(r.Best), five(r.Fast), five(r.Imatrix), r.Best/r.Imatrix, five(r.RTN), five(r.Plain), r.RTN/r.Plain))
	}
	for _, r := range typeRows(t, "gguf_types.json") {
		require.Less(t, r.Best/r.Imatrix, 0.65, r.Type)
		require.Less(t, r.RTN/r.Plain, 1.0, r.Type)
		require.Contains(t, string(page), fmt.Sprintf("| %s | %.3f | %s | %s | %s | %.2f | %s | %s | %.2f |\n", r.Type, r.Bits,
			short(r.Best), short(r.Fast), short(r.Imatrix), r.Best/r.Imatrix, short(r.RTN), short(r.Plain), r.RTN/r.Plain))
		require.LessOrEqual(t, r.Matrix, r.GGMLMatrix, r.Type)
		require.Contains(t, string(page), fmt.Sprintf("| %s | %.6f | %.6f | %.3f |\n", r.Type, r.Matrix, r.GGMLMatrix, r.Matrix/r.GGMLMatrix))
	}
	for _, name := range ggufmodel.Types() {
		require.Contains(t, string(page), name)
	}
}

// The divergences are still what they were; all of them if LOWBIT_GOLDEN is "all".
func TestGGUFTypesMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("quantizes a model as well as it can")
	}
	t.Run("tinyllama-2m", func(t *testing.T) {
		typesMeasured(t, typeRows(t, "gguf_types.json"), embedded, embeddedCalibration, embeddedHeldout)
	})
	t.Run("tinystories-260k", func(t *testing.T) {
		typesMeasured(t, typeRows(t, "gguf_types_tinystories.json"), golden.Shared(t, "models/tinystories-260k"),
			golden.Shared(t, "text/tinystories/calibration.txt"), golden.Shared(t, "text/tinystories/heldout.txt"))
	})
}

func typesMeasured(t *testing.T, rows []typeRow, model, calibration, heldout string) {
	all := os.Getenv(everyRow) == "all"
	text := Calibration{Text: Text{Files: []string{calibration}}, SeqLen: 256}
	matrix := saved(t, Options{Model: model, Output: filepath.Join(t.TempDir(), "out"), Preset: Fast, Calibration: text})
	for _, r := range rows {
		if !all && r.Type != "Q4_K_M" {
			continue
		}
		measure := func(method quant.Quantizer, matrix string) float64 {
			o := Options{
				Model: model, Output: filepath.Join(t.TempDir(), "out.gguf"), Method: method,
				Format: ggufmodel.Format{Type: r.Type, Dense: safetensors.F16}, Importance: matrix,
			}
			if method == nil && matrix == "" {
				o.Calibration = text
			}
			report, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.InDelta(t, r.Bits, report.BitsPerWeight, 1e-3)
			e, err := Evaluate(t.Context(), EvalOptions{Model: o.Output, Against: model, Window: 256, Text: Text{Files: []string{heldout}}})
			require.NoError(t, err)
			return *e.KL
		}
		require.InEpsilon(t, r.RTN, measure(quant.RTN{}, ""), 0.02, r.Type)
		if r.Matrix > 0 {
			require.InEpsilon(t, r.Matrix, measure(nil, matrix), 0.02, r.Type)
		}
		if all && r.Type == "Q4_K_M" {
			require.InEpsilon(t, r.Best, measure(nil, ""), 0.04, r.Type)
		}
	}
}
