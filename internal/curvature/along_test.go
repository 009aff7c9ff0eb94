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

// divergence is the mean KL divergence of the predictions that are counted, over all tokens.
func divergence(t *testing.T, a, b *walk.Walk, w [][]int32) float64 {
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
			if tokens++; tokens%a.SeqLen != 0 {
				sum += decoder.KL(all[0][k].Row(r), all[1][k].Row(r))
			}
		}
	}
	return sum / float64(tokens)
}

// TestAlong: what Along tells of errors small enough is the divergence that they cause,
// also in keys and queries, where inputs and gradients of the first tokens go together.
func TestAlong(t *testing.T) {
	const n, seqLen = 96, 24
	w, text := way(t, seqLen, 2), windows(n, seqLen)
	names := map[string]*tensor.Matrix{}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj", "model.layers.3.self_attn.v_proj"} {
		m, err := w.Weights.Matrix(name + ".weight")
		require.NoError(t, err)
		e := tensor.New(m.Rows, m.Cols)
		for i := range e.Data {
			e.Data[i] = float32(rng.NormFloat64()) * 2e-3
		}
		names[name] = e
	}
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
		kl := divergence(t, w, x, text)
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
