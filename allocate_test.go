package lowbit

import (
	"math/rand/v2"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/allocation"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/quant"
)

// TestBudget: bits that are shared out keep to the budget, lose less than as many bits for
// all layers, and come out the same from any number of workers and where an interrupted run
// is taken up.
func TestBudget(t *testing.T) {
	o := quick(t)
	o.Preset, o.Axis = Plain, AxisOC
	o.Calibration.Samples, o.Calibration.SeqLen = 32, 128
	text, err := os.ReadFile(embeddedHeldout)
	require.NoError(t, err)
	o.Evaluation = Measurement{Text: Text{Strings: []string{string(text[:20_000])}}, Window: 256}
	alike, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	o = withOutput(t, o)
	o.Budget.Bits = alike.BitsPerWeight
	steps := map[string]int{}
	o.Events = func(e Event) { steps[e.Message]++ }
	shared, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.LessOrEqual(t, shared.BitsPerWeight, alike.BitsPerWeight)
	require.Greater(t, shared.BitsPerWeight, alike.BitsPerWeight-0.02)
	t.Logf("KL %.4f at %.4f bits, %.4f at %.4f", *alike.Evaluation.KL, alike.BitsPerWeight, *shared.Evaluation.KL, shared.BitsPerWeight)
	require.Less(t, *shared.Evaluation.KL, 0.95**alike.Evaluation.KL)
	require.Positive(t, steps["measuring"])
	require.Positive(t, steps["weighing"])
	a := shared.Allocation
	require.Equal(t, shared.BitsPerWeight, a.BitsPerWeight)
	require.Len(t, a.Layers, len(shared.Layers))
	require.Greater(t, len(a.Frontier), 10)

	o = withOutput(t, o)
	o.Workers, o.Evaluation, o.Events = 1, Measurement{}, nil
	again, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, a, again.Allocation)
}

// withOutput is o with another output.
func withOutput(t *testing.T, o Options) Options {
	o.Output = quick(t).Output
	return o
}

// TestBudgetOfSize: the output takes no more than it may, in formats of files and folders.
func TestBudgetOfSize(t *testing.T) {
	for name, set := range map[string]func(o *Options){
		"lowbit":             func(o *Options) { o.Preset = Fast },
		"compressed-tensors": func(o *Options) { o.Target, o.GroupSize, o.Bits = "vllm", 0, 0 },
		"gguf":               func(o *Options) { o.Format, o.GroupSize, o.Bits = ggufmodel.Format{Type: "Q4_K_M"}, 0, 0 },
		"mlx":                func(o *Options) { o.Format = format(t, "mlx") },
	} {
		t.Run(name, func(t *testing.T) {
			o := quick(t)
			o.Preset, o.Axis = Plain, AxisOC
			o.Calibration.Samples = 8
			set(&o)
			o.Budget.Size = 2_000_000
			r, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.LessOrEqual(t, r.BytesAfter, o.Budget.Size)
			require.Greater(t, r.BytesAfter, o.Budget.Size*95/100)
			m, err := checkpoint.Open(o.Output)
			require.NoError(t, err)
			defer func() { require.NoError(t, m.Close()) }()
			schemes := map[quant.Scheme]bool{}
			for _, l := range m.Layers() {
				schemes[l.Scheme] = true
			}
			require.Greater(t, len(schemes), 1)
		})
	}
}

// TestBudgetForward: bits are shared out in models through which no gradient goes back, too,
// and by what their layers cost.
func TestBudgetForward(t *testing.T) {
	for _, model := range []string{"jamba", "qwen3-next", "minimax"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			o := quick(t)
			o.Model = "testdata/architectures/" + model
			o.Preset, o.Axis, o.Bits, o.GroupSize = Plain, AxisOC, 4, 16
			ids := make([]int32, 3000)
			rng := rand.New(rand.NewPCG(5, 6))
			for i := range ids {
				ids[i] = rng.Int32N(60)
			}
			o.Calibration = Calibration{Text: Text{IDs: [][]int32{ids[:2000]}}, SeqLen: 50, Samples: 40}
			o.Evaluation = Measurement{Text: Text{IDs: [][]int32{ids[2000:]}}, Window: 50}
			alike, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			o = withOutput(t, o)
			o.Budget.Bits = alike.BitsPerWeight
			shared, err := Quantize(t.Context(), o)
			require.NoError(t, err)
			require.LessOrEqual(t, shared.BitsPerWeight, alike.BitsPerWeight)
			t.Logf("KL %.4f at %.4f bits, %.4f at %.4f, expected %.4f", *alike.Evaluation.KL, alike.BitsPerWeight, *shared.Evaluation.KL, shared.BitsPerWeight, shared.Allocation.Loss)
			require.Less(t, *shared.Evaluation.KL, *alike.Evaluation.KL)
		})
	}
}

// TestBudgetBesideRules: layers with a rule keep it; what cannot be is refused before any work.
func TestBudgetBesideRules(t *testing.T) {
	o := quick(t)
	o.Preset, o.Axis = Plain, AxisOC
	o.Rules = []Rule{{Match: regexp.MustCompile("q_proj"), Bits: 7}, {Match: regexp.MustCompile(`\.3\.mlp`), Dense: true}}
	o.Budget = Budget{Bits: 4, Candidates: []string{"bits=3", "bits=5"}}
	r, err := Quantize(t.Context(), o)
	require.NoError(t, err)
	for _, l := range r.Layers {
		switch {
		case o.Rules[0].Match.MatchString(l.Name):
			require.Equal(t, 7, l.Scheme.Bits, l.Name)
		case o.Rules[1].Match.MatchString(l.Name):
			require.True(t, l.Dense, l.Name)
		default:
			require.Contains(t, []int{3, 5}, l.Scheme.Bits, l.Name)
		}
	}
	require.LessOrEqual(t, r.Allocation.BitsPerWeight, 4.0)

	for want, change := range map[string]func(o *Options){
		"too few bits":              func(o *Options) { o.Budget.Bits = 3 },
		"with the smallest schemes": func(o *Options) { o.Budget.Bits, o.Budget.Size = 0, 1000 },
		"none of the candidates":    func(o *Options) { o.Budget.Candidates = []string{"type=Q6_K"} },
		"suits format mlx": func(o *Options) {
			o.Format, o.Bits, o.GroupSize, o.Rules, o.Budget.Candidates = mlx.Format{FP4: "mxfp4"}, 0, 0, nil, nil
		},
		"rules for every layer": func(o *Options) { o.Rules = []Rule{{Match: regexp.MustCompile("."), Bits: 3}} },
	} {
		o := withOutput(t, o)
		change(&o)
		_, err := Quantize(t.Context(), o)
		require.ErrorContains(t, err, want)
		require.NoFileExists(t, o.Output+checkpoint.PartialSuffix)
	}
	o.Budget.Bits = 3
	_, err = Quantize(t.Context(), withOutput(t, o))
	require.ErrorIs(t, err, allocation.ErrBudget)
	o.Budget.Bits = 99
	require.ErrorIs(t, o.Validate(), ErrOptions)
	o = quick(t)
	o.Method, o.Axis, o.Calibration, o.Budget.Bits = quant.RTN{}, AxisOC, Calibration{}, 3
	p, err := Resolve(o)
	require.NoError(t, err)
	require.True(t, p.NeedsText)
}
