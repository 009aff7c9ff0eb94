package decoder

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

func randomLogits(rows, cols int, seed uint64) *tensor.Matrix {
	rng := rand.New(rand.NewPCG(seed, 0))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	return m
}

func TestNLLAndKL(t *testing.T) {
	// Two outcomes with odds 3:1 and 1:1.
	p, q := []float32{float32(math.Log(3)), 0}, []float32{7, 7}
	require.InDelta(t, -math.Log(0.25), NLL(p, 1), 1e-7)
	require.InDelta(t, math.Log(2), NLL(q, 0), 1e-7)
	require.InDelta(t, 0.75*math.Log(1.5)+0.25*math.Log(0.5), KL(p, q), 1e-7)
	require.InDelta(t, 0.5*math.Log(0.5/0.75)+0.5*math.Log(0.5/0.25), KL(q, p), 1e-7)
	require.Zero(t, KL(p, p))
	// Large logits neither overflow nor vanish.
	require.InDelta(t, 2000, NLL([]float32{1000, -1000}, 1), 1e-9)
	require.InDelta(t, 0, NLL([]float32{1000, -1000}, 0), 1e-9)

	rapid.Check(t, func(t *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float32Range(-80, 80), 1, 50)
		p := logits.Draw(t, "p")
		q := rapid.SliceOfN(rapid.Float32Range(-80, 80), len(p), len(p)).Draw(t, "q")
		var pSum, qSum float64
		for i := range p {
			pSum += math.Exp(float64(p[i]))
			qSum += math.Exp(float64(q[i]))
		}
		var kl float64
		for i := range p {
			pi := math.Exp(float64(p[i])) / pSum
			kl += pi * ((float64(p[i]) - math.Log(pSum)) - (float64(q[i]) - math.Log(qSum)))
			require.InDelta(t, math.Log(pSum)-float64(p[i]), NLL(p, int32(i)), 1e-6)
		}
		require.InDelta(t, kl, KL(p, q), 1e-11)
		require.GreaterOrEqual(t, KL(p, q), -1e-12)
	})
}

func TestNLLsAndKLs(t *testing.T) {
	const vocab = 37
	r := program.NewRunner(3)
	p, q := randomLogits(70, vocab, 1), randomLogits(70, vocab, 2)
	targets := make([]int32, 70)
	for i := range targets {
		targets[i] = int32(i%(vocab+1)) - 1
	}
	nll, kl := make([]float64, 70), make([]float64, 70)
	nll[0] = 5
	NLLs(r, nll, p, targets)
	KLs(r, kl, p, q)
	for i := range targets {
		if targets[i] < 0 {
			require.Zero(t, nll[i])
		} else {
			require.Equal(t, NLL(p.Row(i), targets[i]), nll[i])
		}
		require.Equal(t, KL(p.Row(i), q.Row(i)), kl[i])
	}
}

func BenchmarkNLL(b *testing.B) {
	x := randomLogits(1, 32000, 1).Data
	b.SetBytes(4 * 32000)
	for b.Loop() {
		NLL(x, 5)
	}
}

func BenchmarkKL(b *testing.B) {
	p, q := randomLogits(1, 32000, 1).Data, randomLogits(1, 32000, 2).Data
	b.SetBytes(8 * 32000)
	for b.Loop() {
		KL(p, q)
	}
}
