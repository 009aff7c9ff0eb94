package lowbit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/quant"
)

// TestRareExperts: in a mixture some of whose experts few of 2,048 tokens reach, statistics
// with the other tokens are better than clipped rounding; the report says how many tokens
// each expert saw, and an expert that none reaches is rounded, and said to be.
func TestRareExperts(t *testing.T) {
	const model = "testdata/mixture-2m"
	text, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	run := func(change func(*Options)) *Report {
		o := Options{Model: model, Output: filepath.Join(t.TempDir(), "out"), Bits: 3, GroupSize: 64, Axis: AxisOC, Preset: Fast}
		o.Evaluation = Measurement{Text: Text{Strings: []string{string(text[:30_000])}}, Window: 256}
		o.Calibration = Calibration{Text: Text{Files: []string{embeddedCalibration}}, Samples: 8, SeqLen: 256}
		change(&o)
		r, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		return r
	}
	rounded := run(func(o *Options) {
		o.Preset, o.Method, o.Clip, o.Calibration = 0, quant.RTN{}, new(true), Calibration{}
		o.Arms, o.Axis = []adadim.Arm{adadim.ArmOC()}, 0
	})
	pooled := run(func(*Options) {})
	few := run(func(o *Options) { o.Calibration.Samples, o.Calibration.SeqLen = 1, 32 })
	all := run(func(o *Options) { o.Calibration.RouteAll = true })
	t.Logf("KL: rounded %.4f, pooled %.4f, from 32 tokens %.4f, routed to all %.4f", *rounded.Evaluation.KL, *pooled.Evaluation.KL, *few.Evaluation.KL, *all.Evaluation.KL)
	require.Less(t, *pooled.Evaluation.KL, 0.8**rounded.Evaluation.KL)
	require.Less(t, *all.Evaluation.KL, 0.8**rounded.Evaluation.KL)
	for _, r := range []*Report{pooled, few, all} {
		routed, none := 0, 0
		for _, l := range r.Layers {
			if l.In == 128 && l.Out == 64 && l.Tokens != nil { // gate and up
				routed += *l.Tokens
			}
			if l.Tokens == nil || *l.Tokens > 0 || r == all {
				require.Empty(t, l.Notes, l.Name)
				continue
			}
			none++
			require.Contains(t, l.Notes[0], "no token of the text was routed to it: rounded to nearest")
		}
		require.Equal(t, r.Tokens*2*2*2, routed, "2 experts a token, 2 blocks, gate and up")
		if r == few {
			require.Positive(t, none)
		}
	}
}
