package lowbit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
)

// TestOuterRules: beside linears by GPTQ and without text the embedding is what rounding to
// nearest makes of it on the grid of its rule.
func TestOuterRules(t *testing.T) {
	const name = "model.embed_tokens"
	src, err := checkpoint.Open(embedded)
	require.NoError(t, err)
	w, err := src.Matrix(name + ".weight")
	require.NoError(t, err)
	require.NoError(t, src.Close())
	for _, c := range []struct {
		format layout.Format
		rule   string
		out    string
		plain  bool
	}{
		{ggufmodel.Format{}, "lm_head: type=Q6_K", "out.gguf", false},
		{ggufmodel.Format{Type: "Q4_K_M"}, "embed_tokens: type=Q5_K", "out.gguf", true},
		{mlx.Format{}, "embed_tokens: bits=8,group=64", "out", false},
		{mlx.Format{}, "lm_head: bits=6,group=32", "out", true},
	} {
		rule, err := fitting.ParseRule(c.rule)
		require.NoError(t, err)
		o := Options{
			Model: embedded, Output: filepath.Join(t.TempDir(), c.out), Preset: Fast, Format: c.format, Rules: []Rule{rule},
			Calibration: Calibration{Text: Text{Files: []string{embeddedCalibration}}, SeqLen: 64, Samples: 2},
		}
		if c.plain {
			o.Preset, o.Axis, o.Method, o.Calibration = Plain, AxisOC, quant.RTN{}, Calibration{}
		}
		plan, err := Resolve(o)
		require.NoError(t, err, c.rule)
		i := slices.IndexFunc(plan.Layers, func(l LayerPlan) bool { return l.Name == name })
		require.GreaterOrEqual(t, i, 0, c.rule)
		planned := plan.Layers[i]
		require.Contains(t, planned.Notes[0], c.rule)

		r, err := Quantize(t.Context(), o)
		require.NoError(t, err, c.rule)
		i = slices.IndexFunc(r.Layers, func(l LayerReport) bool { return l.Name == name })
		require.GreaterOrEqual(t, i, 0, c.rule)
		require.Equal(t, planned.Scheme, r.Layers[i].Scheme)

		want, err := quant.RTN{}.Quantize(t.Context(), w, planned.Scheme, nil)
		require.NoError(t, err)
		m, err := checkpoint.Open(o.Output)
		require.NoError(t, err)
		if rule.Type != "" {
			f, err := gguf.Open(o.Output)
			require.NoError(t, err)
			i := slices.IndexFunc(f.Tensors(), func(e gguf.Tensor) bool { return e.Name == "token_embd.weight" })
			require.Equal(t, rule.Type, f.Tensors()[i].Type.String(), c.rule)
			require.NoError(t, f.Close())
		}
		got, err := m.Matrix(name + ".weight")
		require.NoError(t, err)
		require.Equal(t, want.Dequantize().Data, got.Data, c.rule)
		require.NotEqual(t, w.Data, got.Data)
		require.NoError(t, m.Close())
		if _, ok := c.format.(mlx.Format); ok {
			config, err := os.ReadFile(filepath.Join(o.Output, "config.json"))
			require.NoError(t, err)
			require.True(t, bytes.Contains(config, []byte(`"`+name+`"`)), "its bits are told by its name")
		}
	}
	rule, err := fitting.ParseRule("lm_head: bits=8")
	require.NoError(t, err)
	_, err = Resolve(Options{Model: embedded, Output: filepath.Join(t.TempDir(), "out"), Rules: []Rule{rule}})
	require.ErrorIs(t, err, ErrOptions)
	require.ErrorContains(t, err, "formats gguf and mlx do")
}
