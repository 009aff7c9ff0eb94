package lowbit

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestEvaluateReference holds perplexity to figures computed in float64 and
// checked with another engine (testdata/tinyllama-2m/README.md).
func TestEvaluateReference(t *testing.T) {
	e, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Text: Text{Files: []string{embeddedHeldout}}})
	require.NoError(t, err)
	require.InEpsilon(t, 10.414653707143882, e.Perplexity, 1e-6)
	require.Equal(t, 256, e.Window)
	require.Equal(t, 134, e.Windows)
	require.Equal(t, 34170, e.Tokens)
	require.Nil(t, e.KL)
	require.Nil(t, e.Against)
}

func TestEvaluateRealText(t *testing.T) {
	file := golden.Shared(t, "text/real/real_heldout_stories_case.txt")
	e, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Text: Text{Files: []string{file}}, Window: 256})
	require.NoError(t, err)
	require.InEpsilon(t, 8.955103, e.Perplexity, 1e-5)
	require.Equal(t, 12, e.Windows)
}

// short is a text of a few windows.
func short(t *testing.T) Text {
	t.Helper()
	text, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "short.txt")
	require.NoError(t, os.WriteFile(name, text[:9000], 0o666))
	return Text{Files: []string{name}}
}

// TestEvaluateWorkers: the figures do not depend on the number of workers.
func TestEvaluateWorkers(t *testing.T) {
	text := short(t)
	var first *Evaluation
	for _, workers := range []int{1, 8} {
		e, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Against: embedded, Text: text, Workers: workers})
		require.NoError(t, err)
		require.Zero(t, *e.KL)
		require.Equal(t, e.Perplexity, *e.Against)
		if first == nil {
			first = e
		}
		require.Equal(t, first, e)
	}
}

// TestEvaluateFormats: a quantized model and its dequantized copy are the
// same, but for the rounding of the copy.
func TestEvaluateFormats(t *testing.T) {
	text := short(t)
	var exact float64
	for i, name := range []string{"lowbit", "dense"} {
		o := quick(t)
		o.Format, o.Method, o.Arms = format(t, name), quant.RTN{}, []adadim.Arm{adadim.ArmIC()}
		o.Calibration = Calibration{}
		_, err := Quantize(t.Context(), o)
		require.NoError(t, err)
		e, err := Evaluate(t.Context(), EvalOptions{Model: o.Output, Text: text})
		require.NoError(t, err)
		if i == 0 {
			exact = e.Perplexity
			continue
		}
		require.InEpsilon(t, exact, e.Perplexity, 5e-3)
		require.NotEqual(t, exact, e.Perplexity)
	}
}

func TestEvaluateBadInput(t *testing.T) {
	text := short(t)
	for want, o := range map[string]EvalOptions{
		"no such file":          {Model: "absent", Text: text},
		"absent.txt":            {Model: embedded, Text: Text{Files: []string{"absent.txt"}}},
		"window of 1 tokens":    {Model: embedded, Text: text, Window: 1},
		"window of -1 tokens":   {Model: embedded, Text: text, Window: -1},
		"context is 256":        {Model: embedded, Text: text, Window: 300},
		"no text given":         {Model: embedded},
		"no model given":        {Text: text},
		"-2 workers":            {Model: embedded, Text: text, Workers: -2},
		"stat absent-tokenizer": {Model: embedded, Text: text, Tokenizer: "absent-tokenizer"},
		"stat absent-model":     {Model: embedded, Text: text, Against: "absent-model"},
	} {
		_, err := Evaluate(t.Context(), o)
		require.Error(t, err, want)
		require.ErrorContains(t, err, want)
	}
	other := golden.Shared(t, "models/tinystories-260k")
	_, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Against: other, Text: text})
	require.ErrorContains(t, err, "cannot be compared")
}

func TestEvaluateCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	blocks := 0
	_, err := Evaluate(ctx, EvalOptions{Model: embedded, Text: short(t), Events: func(e Event) {
		if blocks++; blocks == 2 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 2, blocks)
}

// TestEvaluateSequences: sequences of token ids are windows of their own.
func TestEvaluateSequences(t *testing.T) {
	ids := randomIDs(t, embedded, 3, 20)
	ids[1] = ids[1][:7]
	rows := make([]int, len(ids))
	o := EvalOptions{Model: embedded, Text: Text{IDs: ids}, Sequences: true, Logits: func(window, first int, l *tensor.Matrix) error {
		require.Equal(t, rows[window], first)
		rows[window] += l.Rows
		return nil
	}}
	e, err := Evaluate(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []int{20, 7, 20}, rows)
	require.Equal(t, []int{19 + 6 + 19, 20, 3}, []int{e.Tokens, e.Window, e.Windows})

	// The same tokens, one sequence at a time.
	var nll float64
	for _, s := range ids {
		one, err := Evaluate(t.Context(), EvalOptions{Model: embedded, Text: Text{IDs: [][]int32{s}}, Sequences: true})
		require.NoError(t, err)
		nll += math.Log(one.Perplexity) * float64(one.Tokens)
	}
	require.InEpsilon(t, math.Exp(nll/44), e.Perplexity, 1e-9)

	for _, bad := range []EvalOptions{
		{Model: embedded, Text: Text{IDs: [][]int32{{1, 2}, {}}}, Sequences: true},
		{Model: embedded, Text: Text{IDs: [][]int32{{1}}}, Sequences: true},
		{Model: embedded, Text: Text{IDs: [][]int32{{1, 2}}}, Sequences: true, Window: 2},
		{Model: embedded, Text: Text{IDs: [][]int32{{1, 2}}, Strings: []string{"a"}}, Sequences: true},
	} {
		_, err := Evaluate(t.Context(), bad)
		require.ErrorIs(t, err, ErrOptions)
	}
	o.Text.IDs = [][]int32{{1, 1 << 20}}
	_, err = Evaluate(t.Context(), o)
	require.ErrorContains(t, err, "token 1048576")
}

// TestMeasurementOptions: windows without text, and of one token, are no measurement.
func TestMeasurementOptions(t *testing.T) {
	o := quick(t)
	require.NoError(t, o.Validate())
	for _, m := range []Measurement{
		{Window: 64}, {Window: 1, Text: short(t)}, {Window: -1, Text: short(t)}, {Text: Text{Files: []string{""}}}, {Text: Text{Strings: []string{"a"}, MaxBytes: -1}},
	} {
		o.Evaluation = m
		require.ErrorIs(t, o.Validate(), ErrOptions, "%+v", m)
	}
}
