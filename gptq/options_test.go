package gptq_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

func TestValidate(t *testing.T) {
	for want, q := range map[string]gptq.Quantizer{
		"damping NaN, want at least 0 and below 1":                  {Damping: math.NaN()},
		"unknown column order 3, want activation, natural or group": {Order: 3},
		"unknown rule for groups 3, want auto, static or dynamic":   {Groups: 3},
		"refinement of -1 rounds of 0 sweeps, want none negative":   {Refine: gptq.Refine{Rounds: -1}},
		"refinement of 1 rounds of -2 sweeps, want none negative":   {Refine: gptq.Refine{Rounds: 1, Sweeps: -2}},
	} {
		err := quant.Validate(q)
		require.ErrorIs(t, err, gptq.ErrOptions)
		require.EqualError(t, err, "invalid gptq options: "+want)
		_, quantizeErr := q.Quantize(t.Context(), tensor.New(4, 4), quant.Scheme{Bits: 4, GroupSize: 4}, nil)
		require.Equal(t, err, quantizeErr)
	}
	require.NoError(t, quant.Validate(gptq.Quantizer{Refine: gptq.DefaultRefine()}))
	for _, c := range []gptq.Correction{{Strength: 1.5}, {Strength: math.NaN()}, {Strength: 1, Damping: 1}} {
		require.ErrorIs(t, c.Validate(), gptq.ErrOptions)
	}
}

func TestParameters(t *testing.T) {
	m, err := quant.Parameters(gptq.Quantizer{Order: gptq.OrderNatural, Refine: gptq.Refine{Rounds: 1}, Workers: 5})
	require.NoError(t, err)
	require.Equal(t, "gptq.Quantizer", m.Type)
	require.JSONEq(t, `{"damping": 0.01, "order": "natural", "groups": "auto", "refine": {"rounds": 1, "sweeps": 2}}`, string(m.Parameters))
	var q gptq.Quantizer
	require.NoError(t, json.Unmarshal(m.Parameters, &q))
	require.Equal(t, gptq.Quantizer{Damping: 0.01, Order: gptq.OrderNatural, Refine: gptq.Refine{Rounds: 1, Sweeps: 2}}, q)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"groups": "none"}`), &q), gptq.ErrOptions)

	require.True(t, quant.NeedsCalibration(q))
	require.False(t, quant.NeedsPairs(q))
	require.Equal(t, gptq.Quantizer{Damping: 0.01, Order: gptq.OrderNatural}, quant.Draft(q))
	require.Equal(t, 3, quant.WithWorkers(q, 3).(gptq.Quantizer).Workers)
}

func TestEnumTexts(t *testing.T) {
	for _, o := range []gptq.Order{gptq.OrderActivation, gptq.OrderNatural} {
		got, err := gptq.ParseOrder(o.String())
		require.NoError(t, err)
		require.Equal(t, o, got)
	}
	for _, g := range []gptq.Groups{gptq.GroupsAuto, gptq.GroupsStatic, gptq.GroupsDynamic} {
		got, err := gptq.ParseGroups(g.String())
		require.NoError(t, err)
		require.Equal(t, g, got)
	}
	_, err := gptq.ParseOrder("act")
	require.EqualError(t, err, `invalid gptq options: unknown column order "act", want activation, natural or group`)
}
