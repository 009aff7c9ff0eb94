package generate

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
)

// TestDraw: tokens come as often as their probabilities say, and none that is left out.
func TestDraw(t *testing.T) {
	logits := []float32{1, 3, 2, -1, 0}
	probability := func(temperature float64, of ...int) map[int32]float64 {
		p, sum := map[int32]float64{}, 0.0
		for _, i := range of {
			p[int32(i)] = math.Exp(float64(logits[i]) / temperature)
			sum += p[int32(i)]
		}
		for i := range p {
			p[i] /= sum
		}
		return p
	}
	for _, tt := range []struct {
		how  Sampler
		want map[int32]float64
	}{
		{Sampler{}, map[int32]float64{1: 1}},
		{Sampler{Temperature: 1}, probability(1, 0, 1, 2, 3, 4)},
		{Sampler{Temperature: 2}, probability(2, 0, 1, 2, 3, 4)},
		{Sampler{Temperature: 0.5, TopK: 3}, probability(0.5, 0, 1, 2)},
		{Sampler{Temperature: 1, TopP: 0.8}, probability(1, 1, 2)}, // .636 and .234
		{Sampler{Temperature: 1, TopK: 2, TopP: 0.7}, probability(1, 1)},
		{Sampler{Temperature: 1, TopK: 99, TopP: 1}, probability(1, 0, 1, 2, 3, 4)},
	} {
		const n = 20000
		rng, counts := rand.New(rand.NewPCG(7, 8)), map[int32]int{}
		for range n {
			counts[tt.how.Draw(logits, rng)]++
		}
		for id, c := range counts {
			p := tt.want[id]
			require.InDelta(t, p, float64(c)/n, 5*math.Sqrt(p*(1-p)/n)+1e-12, "%+v: token %d", tt.how, id)
		}
	}
}

// TestLikeliest: they are the first of all in order, with many equals too.
func TestLikeliest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []candidate
		for i, p := range rapid.SliceOfN(rapid.IntRange(0, rapid.IntRange(1, 1000).Draw(t, "levels")), 1, 99).Draw(t, "probabilities") {
			all = append(all, candidate{int32(i), float64(p)})
		}
		want := slices.Clone(all)
		slices.SortStableFunc(want, func(a, b candidate) int { return cmp.Compare(b.p, a.p) })
		k := rapid.IntRange(1, 120).Draw(t, "k")
		require.Equal(t, want[:min(k, len(want))], likeliest(all, k))
	})
}

// TestWrite: windows begin with their prompts; what comes behind depends on the seed alone, and behind an end
// comes a beginning.
func TestWrite(t *testing.T) {
	const windows, size = Together + 3, 24
	write := func(workers int, seed uint64) [][]int32 {
		src, err := checkpoint.Open("../../testdata/tinyllama-2m")
		require.NoError(t, err)
		defer src.Close()
		m, err := arch.Open(src)
		require.NoError(t, err)
		e, err := Load(context.Background(), m, src, program.NewRunner(workers), nil)
		require.NoError(t, err)
		steps := 0
		all, err := e.Write(context.Background(), windows, size, Together, [][]int32{{3, 4, 5}, {6}}, 1, []int32{11, 13}, seed, func(done, total int) {
			steps++
			require.LessOrEqual(t, done, total)
		})
		require.NoError(t, err)
		require.Equal(t, 2*size, steps)
		return all
	}
	a := write(1, 5)
	require.Equal(t, a, write(3, 5))
	require.NotEqual(t, a, write(1, 6))
	require.Len(t, a, windows)
	ended := 0
	for i, w := range a {
		require.Len(t, w, size)
		if i%2 == 0 {
			require.Equal(t, []int32{3, 4, 5}, w[:3])
		} else {
			require.Equal(t, int32(6), w[0])
		}
		for k, id := range w[:size-1] {
			if slices.Contains([]int32{11, 13}, id) {
				ended++
				require.Equal(t, int32(1), w[k+1])
			}
		}
	}
	require.Positive(t, ended)
}
