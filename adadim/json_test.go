package adadim_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

func TestDecisionJSON(t *testing.T) {
	for name, c := range map[string]struct {
		d    adadim.Decision
		text string
	}{
		"measured": {
			adadim.Decision{
				Candidates: []adadim.Candidate{
					{Arm: adadim.ArmOCInputScale(), Power: 0.5, Measured: true, Loss: 2, Relative: 0.25, Objective: 2},
					{Arm: adadim.ArmIC(), Measured: true},
				},
				Chosen: 1, Measured: true, OutputSize: 8, Loss: 0, Relative: 0,
			},
			`{"candidates": [
				{"arm": "oc+in", "power": 0.5, "loss": 2, "relative": 0.25, "objective": 2},
				{"arm": "ic", "loss": 0, "relative": 0, "objective": 0}
			], "chosen": 1, "output_size": 8, "loss": 0, "relative": 0}`,
		},
		"without data": {
			adadim.Decision{Candidates: []adadim.Candidate{{Arm: adadim.ArmOC()}}},
			`{"candidates": [{"arm": "oc"}], "chosen": 0}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(c.d)
			require.NoError(t, err)
			require.JSONEq(t, c.text, string(text))
			var got adadim.Decision
			require.NoError(t, json.Unmarshal(text, &got))
			require.Equal(t, c.d, got)
		})
	}
	var d adadim.Decision
	require.ErrorIs(t, json.Unmarshal([]byte(`{"candidates": [{"arm": "ic+in"}]}`), &d), adadim.ErrOptions)
	_, err := json.Marshal(adadim.Arm{Axis: quant.IC, InputScale: true})
	require.ErrorIs(t, err, adadim.ErrOptions)
}

func TestQuantizerAbilities(t *testing.T) {
	q := adadim.Quantizer{Method: gptq.Quantizer{Refine: gptq.DefaultRefine(), Workers: 4}, Arms: adadim.PaperArms(), Objective: adadim.ObjectiveRelative}
	m, err := quant.Parameters(q)
	require.NoError(t, err)
	require.Equal(t, "adadim.Quantizer", m.Type)
	require.JSONEq(t, `{"method": {"type": "gptq.Quantizer", "parameters":
		{"damping": 0.01, "order": "activation", "groups": "auto", "refine": {"rounds": 3, "sweeps": 2}}},
		"arms": ["oc", "ic"], "objective": "relative", "search": "rtn"}`, string(m.Parameters))
	require.Equal(t, gptq.Quantizer{Workers: 4}, quant.Draft(q).(adadim.Quantizer).Method)
	require.Equal(t, 2, quant.WithWorkers(q, 2).(adadim.Quantizer).Method.(gptq.Quantizer).Workers)
	require.False(t, quant.NeedsPairs(q))
	require.False(t, quant.NeedsPairs(adadim.Quantizer{}))
	require.True(t, quant.NeedsPairs(adadim.Quantizer{Method: struct{ quant.Quantizer }{q}}))
	require.True(t, quant.NeedsCalibration(adadim.Quantizer{}))
	require.False(t, quant.NeedsCalibration(adadim.Quantizer{Arms: []adadim.Arm{adadim.ArmIC()}}))
	require.True(t, quant.NeedsCalibration(adadim.Quantizer{Arms: []adadim.Arm{adadim.ArmICRowScale()}}))
}

func TestParseArm(t *testing.T) {
	for _, a := range adadim.AllArms() {
		got, err := adadim.ParseArm(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	_, err := adadim.ParseArm("all")
	require.EqualError(t, err, `invalid adadim options: unknown arm "all", want oc, oc+in, ic or ic+row`)
}
