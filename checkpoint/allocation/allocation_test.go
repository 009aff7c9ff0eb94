package allocation

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/quant"
)

// drawn is a model of a few layers with options, some of which share their scheme.
func drawn(t *rapid.T) []Layer {
	layers := make([]Layer, rapid.IntRange(1, 4).Draw(t, "layers"))
	for i := range layers {
		l := &layers[i]
		l.Name, l.Weights = fmt.Sprint("l", i), int64(rapid.IntRange(1, 3).Draw(t, "weights"))*64
		if rapid.IntRange(0, 3).Draw(t, "with") == 0 {
			l.With = "fused"
		}
		sensitive := rapid.Float64Range(0.01, 10).Draw(t, "sensitive")
		for bits := 2; bits <= 5; bits++ {
			l.Options = append(l.Options, Option{
				What: fmt.Sprintf("bits=%d", bits), Bits: int64(bits) * l.Weights,
				Loss: sensitive * math.Pow(4, -float64(bits)) * rapid.Float64Range(0.5, 1.5).Draw(t, "loss"),
			})
		}
	}
	return layers
}

// best tries every mixture.
func best(layers []Layer, bitsPerWeight float64) float64 {
	var weights int64
	for _, l := range layers {
		weights += l.Weights
	}
	least := math.Inf(1)
	var try func(i int, fused string, bits int64, loss float64)
	try = func(i int, fused string, bits int64, loss float64) {
		if i == len(layers) {
			if float64(bits) <= bitsPerWeight*float64(weights) {
				least = min(least, loss)
			}
			return
		}
		for _, o := range layers[i].Options {
			if layers[i].With == "" {
				try(i+1, fused, bits+o.Bits, loss+o.Loss)
			} else if fused == "" || fused == o.What {
				try(i+1, o.What, bits+o.Bits, loss+o.Loss)
			}
		}
	}
	try(0, "", 0, 0)
	return least
}

// TestMix: a mixture keeps to the budget, gives fused layers the same, is no worse than one
// scheme for all and no better than the best of all mixtures, which it is on the frontier.
func TestMix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := drawn(t)
		budget := rapid.Float64Range(2, 6).Draw(t, "budget")
		m, frontier, err := Mix(layers, budget)
		require.NoError(t, err)
		require.LessOrEqual(t, m.BitsPerWeight, budget)
		var loss float64
		var bits, weights int64
		fused := map[string]bool{}
		for i, l := range layers {
			o := l.Options[m.Choice[i]]
			bits, weights, loss = bits+o.Bits, weights+l.Weights, loss+o.Loss
			if l.With != "" {
				fused[o.What] = true
			}
		}
		require.LessOrEqual(t, len(fused), 1)
		require.InDelta(t, m.Loss, loss, 1e-12)
		require.InDelta(t, m.BitsPerWeight, float64(bits)/float64(weights), 1e-12)
		require.GreaterOrEqual(t, m.Loss, best(layers, budget)-1e-12)
		for bits := 2; bits <= 5 && float64(bits) <= budget; bits++ {
			require.LessOrEqual(t, m.Loss, alike(layers, fmt.Sprintf("bits=%d", bits), weights).Loss)
		}
		for i, p := range frontier {
			require.InDelta(t, best(layers, p.BitsPerWeight+1e-9), p.Loss, 1e-9, "each on the frontier is the best of its size")
			if i > 0 {
				require.Greater(t, p.BitsPerWeight, frontier[i-1].BitsPerWeight)
			}
		}
	})
}

func TestMixRefused(t *testing.T) {
	layers := []Layer{{Name: "a", Weights: 100, Options: []Option{{"bits=3", 300, 1}}}, {Name: "b", Weights: 100, Options: []Option{{"bits=4", 400, 1}}}}
	_, _, err := Mix(layers, 3.4)
	require.ErrorIs(t, err, ErrBudget)
	require.ErrorContains(t, err, "the smallest schemes take 3.5 bits a weight, 3.4 are allowed")
	layers[0].With, layers[1].With = "x", "x"
	_, _, err = Mix(layers, 9)
	require.ErrorContains(t, err, "no scheme fits it")
}

// TestSize: of a size as much is used as the next step leaves, and the last plan is the
// mixture that is told.
func TestSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		layers := drawn(t)
		const rest = 1000
		var last map[string]fitting.Rule
		plan := func(rules map[string]fitting.Rule) (int64, error) {
			last = rules
			var bits int64
			for _, l := range layers {
				for _, o := range l.Options {
					if o.What == fmt.Sprintf("bits=%d", rules[l.Name].Bits) {
						bits += o.Bits
					}
				}
			}
			return rest + bits/8, nil
		}
		all, err := mixed(layers, 16)
		require.NoError(t, err)
		var weights int64
		for _, l := range layers {
			weights += l.Weights
		}
		size := rest + weights*2/8 + rapid.Int64Range(0, weights).Draw(t, "more")
		o, err := within(layers, &Budget{Size: size}, plan)
		require.NoError(t, err)
		rules, err := o.Rules()
		require.NoError(t, err)
		require.Equal(t, rules, last)
		n, err := plan(rules)
		require.NoError(t, err)
		require.LessOrEqual(t, n, size)
		if size >= rest+weights*5/8 {
			require.Equal(t, all.Loss, o.Loss, "there is room for everything that pays")
		}
		_, err = within(layers, &Budget{Size: rest + weights*2/8 - 1}, plan)
		require.ErrorIs(t, err, ErrBudget)
		failed := errors.New("no")
		_, err = within(layers, &Budget{Size: size}, func(map[string]fitting.Rule) (int64, error) { return 0, failed })
		require.ErrorIs(t, err, failed)
	})
}

func TestCandidates(t *testing.T) {
	s := quant.Scheme{Bits: 3, GroupSize: 128}
	list := candidates(native.Format{}, s, false)
	require.Len(t, list, 6*3+1)
	require.Contains(t, list, "bits=3,group=32")
	require.Len(t, candidates(native.Format{}, s, true), 6+1)
	require.Contains(t, candidates(ggufmodel.Format{}, s, false), "type=Q4_K")
	require.Contains(t, candidates(mlx.Format{}, s, false), "bits=4,group=64")
	for _, what := range append(list, candidates(ggufmodel.Format{}, s, false)...) {
		r, err := everywhere(what)
		require.NoError(t, err)
		require.True(t, r.Match.MatchString("any.layer"))
	}
	fused := together(autogptq.Format{Version: 2})
	require.Equal(t, "a.qkv_proj", fused("a.q_proj"))
	require.Equal(t, "a.qkv_proj", fused("a.v_proj"))
	require.Empty(t, fused("a.o_proj"))
	require.Empty(t, together(native.Format{})("a.q_proj"))
}

func TestBudget(t *testing.T) {
	for want, b := range map[string]Budget{
		"want up to 16":               {Bits: 17},
		"budget of -1":                {Bits: -1},
		"bits a weight or a size":     {Bits: 3, Size: 1 << 30},
		"candidates without a budget": {Candidates: []string{"bits=3"}},
		"unknown key":                 {Bits: 3, Candidates: []string{"bots=3"}},
	} {
		require.ErrorContains(t, b.Validate(), want)
	}
	require.NoError(t, (&Budget{Bits: 3, Candidates: []string{"bits=3,group=64", "dense"}}).Validate())
	require.NoError(t, (&Budget{}).Validate())
	require.Error(t, (&Budget{Bits: math.NaN()}).Validate())
}
