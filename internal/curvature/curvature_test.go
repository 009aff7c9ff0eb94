package curvature

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/gonum/mat"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

func way(t *testing.T, seqLen, workers int) *walk.Walk {
	src, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	m, err := arch.ParseConfig(src.Config())
	require.NoError(t, err)
	r := program.NewRunner(workers)
	return &walk.Walk{Model: m, Weights: src, Runner: r, SeqLen: seqLen, Store: streams.New(r, streams.Unlimited, nil)}
}

func windows(n, seqLen int) [][]int32 {
	rng := rand.New(rand.NewPCG(1, 2))
	w := make([][]int32, n)
	for i := range w {
		for range seqLen {
			w[i] = append(w[i], rng.Int32N(1000))
		}
	}
	return w
}

// TestCollect compares the moments of a layer with those summed up from its gradients,
// and wants no others, and the same bits from any number of workers.
func TestCollect(t *testing.T) {
	const name = "model.layers.2.mlp.up_proj"
	const n, seqLen = 6, 20
	wants := func(l string) bool { return l == name }
	w := way(t, seqLen, 2)
	m, err := Collect(context.Background(), w, windows(n, seqLen), wants, nil)
	require.NoError(t, err)
	o, err := m.Of(name)
	require.NoError(t, err)
	none, err := m.Of("model.layers.1.mlp.up_proj")
	require.NoError(t, err)
	require.Nil(t, none)
	require.Zero(t, w.Store.Used())

	other, err := Collect(context.Background(), way(t, seqLen, 1), windows(n, seqLen), wants, nil)
	require.NoError(t, err)
	again, err := other.Of(name)
	require.NoError(t, err)
	require.Equal(t, o, again)

	want := tensor.New(o.Rows, o.Cols)
	w = way(t, seqLen, 2)
	weights, seen := leveragesOf(t, w, windows(n, seqLen), name), 0
	require.NoError(t, w.Back(context.Background(), windows(n, seqLen), &walk.Backward{
		Loss: func(window, first int, logits, g *tensor.Matrix) {
			for i := range logits.Rows {
				if clear(g.Row(i)); first+i < seqLen-1 {
					id := decoder.Sample(logits.Row(i), rand.New(rand.NewPCG(uint64(window), uint64(first+i))))
					decoder.NLLBack(g.Row(i), logits.Row(i), id)
				}
			}
		},
		Gradient: func(b *program.Block, linear int, _, g *tensor.Matrix) error {
			for r := 0; b.Linears[linear].Name == name && r < g.Rows; r += seqLen {
				x := walk.Rows(g, r, r+seqLen).Clone()
				level(x, weights[seen:seen+seqLen])
				seen += seqLen
				for t := range x.Rows {
					for i, a := range x.Row(t) {
						for j, b := range x.Row(t) {
							want.Data[i*want.Stride+j] += a * b / (n * seqLen)
						}
					}
				}
			}
			return nil
		},
		Settle: func(*program.Block) error { return nil },
	}))
	kept := m.Kept[name]
	require.Greater(t, kept, 0.0)
	require.Less(t, kept, 1.0)
	for i := range o.Rows {
		for j, v := range o.Row(i) {
			x := float64(want.At(i, j))
			if i != j {
				x *= kept
			}
			require.InDelta(t, x, v, 1e-5*math.Sqrt(float64(want.At(i, i))*float64(want.At(j, j))))
		}
	}
}

// leveragesOf are those of the tokens at a layer, by the inverse of their second moments.
func leveragesOf(t *testing.T, w *walk.Walk, windows [][]int32, name string) (all []float64) {
	var rows [][]float64
	require.NoError(t, w.Back(context.Background(), windows, &walk.Backward{
		Inputs: true,
		Loss:   func(_, _ int, _, g *tensor.Matrix) { g.Zero() },
		Gradient: func(b *program.Block, linear int, x, _ *tensor.Matrix) error {
			for r := 0; b.Linears[linear].Name == name && r < x.Rows; r++ {
				var row []float64
				for _, v := range x.Row(r) {
					row = append(row, float64(v))
				}
				rows = append(rows, row)
			}
			return nil
		},
		Settle: func(*program.Block) error { return nil },
	}))
	in := len(rows[0])
	h := mat.NewSymDense(in, nil)
	for _, x := range rows {
		h.SymRankOne(h, 1, mat.NewVecDense(in, x))
	}
	mean := mat.Trace(h) / float64(in)
	for j := range in {
		h.SetSym(j, j, h.At(j, j)+0.01*mean)
	}
	var inverse mat.Dense
	require.NoError(t, inverse.Inverse(h))
	for _, x := range rows {
		v := mat.NewVecDense(in, x)
		all = append(all, mat.Inner(v, &inverse, v))
	}
	return all
}

// TestLevel: a token that is much larger than the others counts as one of four times
// their median, the others stay.
func TestLevel(t *testing.T) {
	x := tensor.FromSlice(5, 2, []float32{3, 4, 0, 0, 30, 40, 0, 5, 5, 0})
	level(x, nil)
	require.Equal(t, []float32{3, 4, 0, 0, 6, 8, 0, 5, 5, 0}, x.Data)
	x = tensor.FromSlice(4, 1, []float32{1, 1, 1, 4})
	level(x, []float64{1, 4, 9, 4}) // 1, 4, 9, 64: at most 36
	require.Equal(t, []float32{1, 2, 3, 6}, x.Data)
}

// TestCombined: what the halves agree on is kept, what they do not agree on is not.
func TestCombined(t *testing.T) {
	half := func(beside float32) *tensor.Matrix { return tensor.FromSlice(2, 2, []float32{2, 0, beside, 4}) }
	o, kept := combined(&[2]*tensor.Matrix{half(1), half(1)}, 0.5)
	require.Equal(t, 1.0, kept)
	require.Equal(t, []float32{2, 1, 1, 4}, o.Data)
	o, kept = combined(&[2]*tensor.Matrix{half(1), half(-1)}, 0.5)
	require.Zero(t, kept)
	require.Equal(t, []float32{2, 0, 0, 4}, o.Data)
}

// TestSample: ids come as often as the model gives them.
func TestSample(t *testing.T) {
	logits := []float32{0, float32(math.Log(3)), float32(math.Inf(-1)), float32(math.Log(4))}
	count := make([]int, 4)
	for i := range 8000 {
		count[decoder.Sample(logits, rand.New(rand.NewPCG(7, uint64(i))))]++
	}
	require.InDelta(t, 1000, count[0], 150)
	require.InDelta(t, 3000, count[1], 200)
	require.Zero(t, count[2])
	require.InDelta(t, 4000, count[3], 200)
}
