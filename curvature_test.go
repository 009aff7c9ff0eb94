package lowbit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
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

// TestCurvatureSettings: curvature sets the objective, unless one is given, and says who
// did.
func TestCurvatureSettings(t *testing.T) {
	setting := func(o Options, name string) Setting {
		p, err := Resolve(o)
		require.NoError(t, err)
		for _, s := range p.Settings {
			if s.Name == name {
				return s
			}
		}
		t.Fatal(name)
		return Setting{}
	}
	o := quick(t)
	o.Preset = Best
	require.Equal(t, Setting{Name: "curvature", Value: CurvatureOff, From: "default"}, setting(o, "curvature"))
	require.Equal(t, adadim.ObjectiveRelative, setting(o, "objective").Value)
	o.Curvature = CurvatureOn
	require.Equal(t, Setting{Name: "objective", Value: adadim.ObjectiveCurvature, From: "curvature on"}, setting(o, "objective"))
	o.Objective = new(adadim.ObjectiveLinear)
	require.Equal(t, Setting{Name: "objective", Value: adadim.ObjectiveLinear, From: "given"}, setting(o, "objective"))
	o.Curvature = 9
	require.ErrorIs(t, o.Validate(), ErrOptions)
}
