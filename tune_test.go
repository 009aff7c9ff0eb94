package lowbit

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/distill"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
)

// tuned are options with a short tuning of a tiny model with random weights.
func tuned(t *testing.T, model string, what Tune) Options {
	rng := rand.New(rand.NewPCG(1, 1))
	var ids [][]int32
	for range 24 {
		window := make([]int32, 32)
		for i := range window {
			window[i] = rng.Int32N(90)
		}
		ids = append(ids, window)
	}
	return Options{
		Model: filepath.Join("testdata/architectures", model), Output: filepath.Join(t.TempDir(), "out"),
		Bits: 3, GroupSize: 12, Calibration: Calibration{Text: Text{IDs: ids}, Samples: 8, SeqLen: 32},
		Curvature: CurvatureOff, Tuning: Tuning{What: what, Steps: 20},
	}
}

// TestTuning: what tuning says it has reached is what the output has, in every kind of
// output, and better than before.
func TestTuning(t *testing.T) {
	for name, set := range map[string]func(o *Options){
		"scales":       func(o *Options) { *o = tuned(t, "qwen3", TuneScales) },
		"codes":        func(*Options) {},
		"input scales": func(o *Options) { o.Arms = []adadim.Arm{{InputScale: true}} },
		"row scales":   func(o *Options) { o.Arms = []adadim.Arm{{Axis: quant.IC, RowScale: true}} },
		"folded": func(o *Options) {
			o.Model, o.Format, o.Bits, o.GroupSize, o.Arms = unbalanced(t, false), format(t, "gptq_v2"), 4, 64, ocArms
			o.Skip = []*regexp.Regexp{regexp.MustCompile(`layers\.[23]\.`)}
		},
		"full, skipped": func(o *Options) {
			o.Inputs, o.Skip = InputsFull, []*regexp.Regexp{regexp.MustCompile(`layers\.1\.mlp`)}
		},
		"experts": func(o *Options) { *o = tuned(t, "mixtral", TuneCodes) },
		"gguf": func(o *Options) {
			o.Format, o.Bits, o.GroupSize, o.Fit = format(t, "gguf"), 3, 0, FitOn // Q3_K
			o.Model = embedded
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := tuned(t, "qwen3", TuneCodes)
			set(&o)
			held := heldWindows(t, o)
			divergence := func(path string) float64 {
				e, err := Evaluate(t.Context(), EvalOptions{Model: path, Against: o.Model, Text: Text{IDs: held}, Sequences: true})
				require.NoError(t, err)
				return *e.KL
			}
			last := -1
			o.Events = func(e Event) {
				if e.Kind == EventTune {
					require.Greater(t, e.Done, last)
					require.Positive(t, e.KL)
					last = e.Done
				}
			}
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.Equal(t, o.Tuning.Steps, last)
			require.Equal(t, o.Tuning.What, r.Tuned.What)
			require.Less(t, r.Tuned.After, r.Tuned.Before)
			require.InEpsilon(t, r.Tuned.After, divergence(o.Output), 2e-3)

			plain := o
			plain.Tuning, plain.Events, plain.Output = Tuning{}, nil, o.Output+"-plain"
			_, err = Quantize(t.Context(), plain)
			require.NoError(t, err)
			require.InEpsilon(t, r.Tuned.Before, divergence(plain.Output), 2e-3)
			require.Equal(t, name == "folded", slices.ContainsFunc(r.Layers, func(l LayerReport) bool { return l.Folded != "" }))
		})
	}
}

// heldWindows are those that nothing is fitted to.
func heldWindows(t *testing.T, o Options) [][]int32 {
	j, err := newJob(o)
	require.NoError(t, err)
	defer j.close()
	text, err := readCalibration(j.src, j.model, o.Calibration, o.Tuning, 0)
	require.NoError(t, err)
	require.Len(t, text.tuning, 24)
	_, held := distill.Split(text.tuning)
	require.Len(t, held, 3)
	return held
}

// TestTuningResumed: a run that is interrupted while it tunes tunes anew, to the same
// bytes, which do not depend on the number of workers either.
func TestTuningResumed(t *testing.T) {
	whole := tuned(t, "qwen3", TuneCodes)
	whole.Workers = 1
	_, err := Quantize(t.Context(), whole)
	require.NoError(t, err)

	o := tuned(t, "qwen3", TuneCodes)
	o.Workers = 3
	ctx, cancel := context.WithCancel(t.Context())
	o.Events = func(e Event) {
		if e.Kind == EventProgress && e.Message == "tuning" && e.Done == 7 {
			cancel()
		}
	}
	_, err = Quantize(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.NoFileExists(t, o.Output)
	var quantized int
	o.Resume, o.Events = true, func(e Event) {
		if e.Kind == EventPlan {
			quantized = e.Total - e.Kept
		}
	}
	_, err = Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Zero(t, quantized)
	requireSameFolder(t, whole.Output, o.Output)
}

// TestTuningRefused: what cannot be tuned is refused before any work.
func TestTuningRefused(t *testing.T) {
	refused := func(o Options, text string) {
		_, err := Quantize(t.Context(), o)
		require.ErrorIs(t, err, ErrOptions)
		require.ErrorContains(t, err, text)
		require.NoDirExists(t, o.Output+".partial")
	}
	o := tuned(t, "qwen3", TuneCodes)
	o.Tuning.Tokens = 3 * 32
	refused(o, "3 windows")
	o.Tuning.Tokens = -1
	refused(o, "-1 tokens")
	o.Tuning = Tuning{Steps: 3}
	refused(o, "nothing is tuned")
	o = tuned(t, "qwen3", TuneScales)
	o.Model = "testdata/architectures/jamba"
	_, err := Resolve(o)
	require.ErrorIs(t, err, program.ErrNoGradient)
	o = tuned(t, "qwen3", TuneCodes)
	o.Memory = 98 << 20
	_, err = Quantize(t.Context(), o)
	require.ErrorIs(t, err, ErrMemory)

	p, err := Resolve(tuned(t, "qwen3", TuneCodes))
	require.NoError(t, err)
	require.True(t, slices.Contains(p.Settings, Setting{Name: "tune", Value: TuneCodes, From: "given"}))
	require.True(t, slices.Contains(p.Settings, Setting{Name: "tune_steps", Value: 20, From: "given"}))
}
