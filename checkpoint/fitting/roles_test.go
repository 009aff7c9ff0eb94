package fitting_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Linears that steer a state stay dense unless Include or a rule names them.
func TestRoles(t *testing.T) {
	dense := func(r *fitting.Rules) (names []string) {
		r.Format, r.Scheme, r.Arms = native.Format{}, quant.Scheme{Bits: 4, GroupSize: 32}, []adadim.Arm{adadim.ArmOC()}
		p := r.NewPlan()
		var linears []fitting.Linear
		for _, name := range []string{"mixer.in_proj", "mixer.x_proj", "mamba.dt_proj", "linear_attn.in_proj_ba", "linear_attn.in_proj_a", "linear_attn.out_proj", "mlp.x_proj"} {
			linears = append(linears, fitting.Linear{Layer: layout.Layer{Name: "model.layers.0." + name, Out: 64, In: 64, DType: safetensors.F32}, Input: -1})
		}
		p.AddBlock(1, linears)
		require.NoError(t, p.Err())
		for _, l := range p.Layers {
			if l.Dense {
				require.Contains(t, l.Notes[0], "steers the state")
				names = append(names, l.Name[len("model.layers.0."):])
			}
		}
		return names
	}
	require.Equal(t, []string{"mixer.x_proj", "mamba.dt_proj", "linear_attn.in_proj_ba", "linear_attn.in_proj_a"}, dense(&fitting.Rules{}))
	require.Equal(t, []string{"linear_attn.in_proj_ba", "linear_attn.in_proj_a"}, dense(&fitting.Rules{Include: []*regexp.Regexp{regexp.MustCompile(`x_proj|dt_proj`)}}))
	bits := 8
	require.Equal(t, []string{"mixer.x_proj", "mamba.dt_proj"}, dense(&fitting.Rules{Change: []fitting.Rule{{Match: regexp.MustCompile(`in_proj`), Bits: bits}}}))
}
