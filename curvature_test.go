package lowbit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
)

// TestCurvatureRefused: a model through which no gradient goes back is refused before
// any text is read, by the name of what is in the way, and so is one that cannot be run.
func TestCurvatureRefused(t *testing.T) {
	for model, what := range map[string]string{
		"jamba": "convolution over tokens", "minimax": "linear attention with decay", "qwen3-next": "convolution over tokens",
	} {
		o := quick(t)
		o.Model, o.Curvature = "testdata/architectures/"+model, CurvatureOn
		_, err := Resolve(o)
		require.ErrorIs(t, err, program.ErrNoGradient, model)
		require.ErrorIs(t, err, ErrOptions, model)
		require.ErrorContains(t, err, what, model)
	}
	o := quick(t)
	o.Method, o.Curvature = quant.RTN{}, CurvatureOn
	o.Calibration = Calibration{}
	p, err := Resolve(o)
	require.NoError(t, err)
	require.True(t, p.NeedsText)
}

// TestCurvatureSettings: preset best judges by curvature with the method that it sets, unless
// something is given that knows nothing of it; curvature sets the objective, unless one is
// given; and all of it says who did.
func TestCurvatureSettings(t *testing.T) {
	for name, c := range map[string]struct {
		change               func(o *Options)
		curvature, objective Setting
	}{
		"best": {func(o *Options) {},
			Setting{Value: CurvatureOn, From: "preset best"}, Setting{Value: adadim.ObjectiveCurvature, From: "curvature on"}},
		"fast": {func(o *Options) { o.Preset = Fast },
			Setting{Value: CurvatureOff, From: "default"}, Setting{Value: adadim.ObjectiveRelative, From: "preset fast"}},
		"fast, on": {func(o *Options) { o.Preset, o.Curvature = Fast, CurvatureOn },
			Setting{Value: CurvatureOn, From: "given"}, Setting{Value: adadim.ObjectiveCurvature, From: "curvature on"}},
		"off": {func(o *Options) { o.Curvature = CurvatureOff },
			Setting{Value: CurvatureOff, From: "given"}, Setting{Value: adadim.ObjectiveRelative, From: "preset best"}},
		"another method": {func(o *Options) { o.Method = gptq.Quantizer{} },
			Setting{Value: CurvatureOff, From: "default"}, Setting{Value: adadim.ObjectiveRelative, From: "preset best"}},
		"another objective": {func(o *Options) { o.Objective = new(adadim.ObjectiveLinear) },
			Setting{Value: CurvatureOff, From: "default"}, Setting{Value: adadim.ObjectiveLinear, From: "given"}},
		"on, another objective": {func(o *Options) { o.Objective, o.Curvature = new(adadim.ObjectiveLinear), CurvatureOn },
			Setting{Value: CurvatureOn, From: "given"}, Setting{Value: adadim.ObjectiveLinear, From: "given"}},
		"no gradients": {func(o *Options) { o.Model = "testdata/architectures/minimax" },
			Setting{Value: CurvatureOff, From: "block 0 (model.layers.0.): linear attention with decay: no gradient goes back through it"},
			Setting{Value: adadim.ObjectiveRelative, From: "block 0 (model.layers.0.): linear attention with decay: no gradient goes back through it"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := quick(t)
			o.Preset = Best
			c.change(&o)
			p, err := Resolve(o)
			require.NoError(t, err)
			c.curvature.Name, c.objective.Name = "curvature", "objective"
			require.Contains(t, p.Settings, c.curvature)
			require.Contains(t, p.Settings, c.objective)
		})
	}
	o := quick(t)
	o.Curvature = 9
	require.ErrorIs(t, o.Validate(), ErrOptions)
}
