package lowbit

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
)

// TestFewTokens: with 512 tokens to calibrate on, presets best and fast are better than
// clipped rounding without any.
func TestFewTokens(t *testing.T) {
	text, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	kl := func(o Options) float64 {
		o.Evaluation = Measurement{Text: Text{Strings: []string{string(text[:30_000])}}, Window: 256}
		r, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		return *r.Evaluation.KL
	}
	o := quick(t)
	o.Preset, o.Axis, o.Method, o.Clip, o.Calibration = 0, AxisOC, quant.RTN{}, new(true), Calibration{}
	rounded := kl(o)
	for _, p := range []Preset{Best, Fast} {
		o := quick(t)
		o.Preset, o.Calibration.Samples, o.Calibration.SeqLen, o.Calibration.PerDocument, o.Calibration.BOS = p, 2, 256, false, nil
		few := kl(o)
		t.Logf("%v: KL %.4f, clipped rounding %.4f", p, few, rounded)
		require.Less(t, few, 0.85*rounded)
	}
}
