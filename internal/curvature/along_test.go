package curvature

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

// off is a walk whose weight of one layer is off by an error.
type off struct {
	program.Weights
	name string
	e    *tensor.Matrix
}

func (o off) Matrix(name string) (*tensor.Matrix, error) {
	m, err := o.Weights.Matrix(name)
	if err == nil && name == o.name+".weight" {
		m = m.Clone()
		for i, v := range o.e.Data {
			m.Data[i] += v
		}
	}
	return m, err
}

// divergence is the mean KL divergence of the predictions over all tokens; those behind
// the last token of a window count if last says so.
func divergence(t *testing.T, a, b *walk.Walk, w [][]int32, last bool) float64 {
	var all [2][]*tensor.Matrix
	for i, x := range []*walk.Walk{a, b} {
		require.NoError(t, x.Back(context.Background(), w, &walk.Backward{
			First: x.Model.Layers - 1,
			Loss: func(_, _ int, logits, g *tensor.Matrix) {
				all[i] = append(all[i], logits.Clone())
				clear(g.Data)
			},
			Gradient: func(*program.Block, int, *tensor.Matrix, *tensor.Matrix) error { return nil },
			Settle:   func(*program.Block) error { return nil },
		}))
	}
	var sum float64
	tokens := 0
	for k := range all[0] {
		for r := range all[0][k].Rows {
			if tokens++; last || tokens%a.SeqLen != 0 {
				sum += decoder.KL(all[0][k].Row(r), all[1][k].Row(r))
			}
		}
	}
	return sum / float64(tokens)
}

// someErrors are random errors of some layers, of a size.
func someErrors(t *testing.T, w *walk.Walk, size float32) map[string]*tensor.Matrix {
	names := map[string]*tensor.Matrix{}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj", "model.layers.3.self_attn.v_proj"} {
		m, err := w.Weights.Matrix(name + ".weight")
		require.NoError(t, err)
		e := tensor.New(m.Rows, m.Cols)
		for i := range e.Data {
			e.Data[i] = float32(rng.NormFloat64()) * size
		}
		names[name] = e
	}
	return names
}

// TestApart: what it tells of a layer's error is the divergence that it causes, of a part
// of the text where that is long.
func TestApart(t *testing.T) {
	const seqLen = 24
	for _, n := range []int{60, 200} {
		w, text := way(t, seqLen, 2), windows(n, seqLen)
		names := someErrors(t, w, 2e-2)
		steps, last := 0, 0
		cost, err := Apart(context.Background(), w, text, func(name string) bool { return names[name] != nil },
			func(name string) (*tensor.Matrix, error) { return names[name].Clone(), nil }, func(string) float64 { return 1 },
			func(done, total int) { steps, last = done, total })
		require.NoError(t, err)
		require.Len(t, cost, len(names))
		require.Equal(t, last, steps)
		for name, e := range names {
			x := way(t, seqLen, 2)
			x.Weights = off{x.Weights, name, e}
			kl := divergence(t, way(t, seqLen, 2), x, text, true)
			within := 1e-4
			if n > 85 {
				within = 0.3
			}
			require.InEpsilon(t, kl, cost[name], within, name)
		}
	}
	costs := map[string]float64{}
	divide(costs, []string{"a", "b", "c"}, 6, func(name string) float64 { return float64(name[0]-'a') / 2 })
	divide(costs, []string{"d", "e"}, 1, func(string) float64 { return 0 })
	require.Equal(t, map[string]float64{"a": 0, "b": 2, "c": 4, "d": .5, "e": .5}, costs)
}

// TestAlong: what Along tells of errors small enough is the divergence that they cause,
// also in keys and queries, where inputs and gradients of the first tokens go together.
func TestAlong(t *testing.T) {
	const n, seqLen = 96, 24
	w, text := way(t, seqLen, 2), windows(n, seqLen)
	names := someErrors(t, w, 2e-3)
	wants := func(name string) bool { return names[name] != nil }
	steps := 0
	cost, err := Along(context.Background(), w, text, wants, func(name string) (*tensor.Matrix, error) { return names[name], nil },
		func(done, total int) { steps++ })
	require.NoError(t, err)
	require.Len(t, cost, len(names))
	require.Positive(t, steps)
	for name, e := range names {
		x := way(t, seqLen, 2)
		x.Weights = off{x.Weights, name, e}
		kl := divergence(t, w, x, text, false)
		t.Logf("%s: %.3g, told %.3g", name, kl, cost[name])
		require.InEpsilon(t, kl, cost[name], 0.5, name) // of 96 squares: 14 % are one standard error
	}
	again, err := Along(context.Background(), way(t, seqLen, 1), text, wants, func(name string) (*tensor.Matrix, error) { return names[name], nil }, nil)
	require.NoError(t, err)
	require.Equal(t, cost, again)
	none, err := Along(context.Background(), w, text, func(string) bool { return false }, nil, nil)
	require.NoError(t, err)
	require.Empty(t, none)
}
