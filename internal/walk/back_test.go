package walk_test

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

const tinyllama = "../../testdata/tinyllama-2m"

// way opens a model for windows of seqLen; beyond limit bytes streams lie in a file.
func way(t *testing.T, dir string, seqLen, workers int, limit int64) *walk.Walk {
	src, err := checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	m, err := arch.ParseConfig(src.Config())
	require.NoError(t, err)
	require.NoError(t, m.Fit(src))
	r := program.NewRunner(workers)
	store := streams.New(r, limit, func() (streams.File, error) {
		f, err := os.Create(filepath.Join(t.TempDir(), "streams"))
		t.Cleanup(func() { _ = f.Close() })
		return f, err
	})
	return &walk.Walk{Model: m, Weights: src, Runner: r, SeqLen: seqLen, Store: store}
}

// gradients are those of the negative log-likelihoods of labels, by linear [tokens,
// out]. The last token of a window has none.
func gradients(t *testing.T, w *walk.Walk, windows, labels [][]int32) map[string][]float32 {
	all := map[string][]float32{}
	settled := map[int]bool{}
	require.NoError(t, w.Back(context.Background(), windows, &walk.Backward{
		Loss: func(window, first int, logits, g *tensor.Matrix) {
			for i := range logits.Rows {
				if clear(g.Row(i)); first+i < w.SeqLen-1 {
					decoder.NLLBack(g.Row(i), logits.Row(i), labels[window][first+i])
				}
			}
		},
		Gradient: func(b *program.Block, linear int, _, g *tensor.Matrix) error {
			require.False(t, settled[b.Index])
			name := b.Linears[linear].Name
			for i := range g.Rows {
				all[name] = append(all[name], g.Row(i)...)
			}
			return nil
		},
		Settle: func(b *program.Block) error { settled[b.Index] = true; return nil },
	}))
	require.Len(t, settled, w.Model.Layers)
	require.Zero(t, w.Store.Used(), "all pieces are given up")
	return all
}

// TestBack compares with the gradients that PyTorch finds, to 1e-4 of the largest of
// a layer and of their norm.
func TestBack(t *testing.T) {
	f, err := safetensors.Open("testdata/gradients.safetensors")
	require.NoError(t, err)
	defer f.Close()
	ints := func(name string) []int32 {
		b, err := f.ReadBytes(name, nil)
		require.NoError(t, err)
		ids := make([]int32, len(b)/4)
		for i := range ids {
			ids[i] = int32(b[4*i]) | int32(b[4*i+1])<<8
		}
		return ids
	}
	ids := ints("ids")
	got := gradients(t, way(t, tinyllama, len(ids), 0, streams.Unlimited), [][]int32{ids}, [][]int32{ints("labels")})
	require.Len(t, got, 28)
	for name, g := range got {
		want, err := f.ReadFloat32(name, nil)
		require.NoError(t, err)
		require.Len(t, g, len(want), name)
		var worst, largest, off, size float64
		for i, v := range want {
			d := float64(g[i]) - float64(v)
			worst, largest = max(worst, math.Abs(d)), max(largest, math.Abs(float64(v)))
			off += d * d
			size += float64(v) * float64(v)
		}
		require.Less(t, worst/largest, 1e-4, name)
		require.Less(t, math.Sqrt(off/size), 1e-4, name)
	}
}

// TestBackSame checks that neither workers nor memory change a bit.
func TestBackSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n, seqLen = 150, 32 // three batches, the last one short
	ids := make([][]int32, n)
	for i := range ids {
		ids[i] = make([]int32, seqLen)
		for j := range ids[i] {
			ids[i][j] = rng.Int32N(90)
		}
	}
	for _, model := range []string{"mixtral", "gemma2"} {
		dir := "../../testdata/architectures/" + model
		want := gradients(t, way(t, dir, seqLen, 1, streams.Unlimited), ids, ids)
		require.Equal(t, want, gradients(t, way(t, dir, seqLen, 3, 1<<16), ids, ids), model)
	}
}

// TestBackCancelled checks that the walk ends between batches.
func TestBackCancelled(t *testing.T) {
	w := way(t, tinyllama, 8, 0, streams.Unlimited)
	ctx, cancel := context.WithCancel(context.Background())
	blocks := 0
	err := w.Back(ctx, [][]int32{make([]int32, 8)}, &walk.Backward{
		Loss:     func(_, _ int, _, g *tensor.Matrix) { g.Zero() },
		Gradient: func(*program.Block, int, *tensor.Matrix, *tensor.Matrix) error { return nil },
		Settle:   func(*program.Block) error { blocks++; cancel(); return nil },
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, blocks)
}

// TestHeadBack holds the way back through the heads of the tiny random models to
// finite differences, and with it the losses.
func TestHeadBack(t *testing.T) {
	dirs, err := filepath.Glob("../../testdata/architectures/*/config.json")
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	rng := rand.New(rand.NewPCG(5, 6))
	for _, file := range dirs {
		w := way(t, filepath.Dir(file), 4, 0, streams.Unlimited)
		head, err := w.Model.LoadHead(w.Weights, nil)
		require.NoError(t, err)
		random := func(rows, cols int, dev float64) *tensor.Matrix {
			m := tensor.New(rows, cols)
			for i := range m.Data {
				m.Data[i] = float32(dev * rng.NormFloat64())
			}
			return m
		}
		x, other := random(4, w.Model.Hidden, 1), random(4, w.Model.Vocab, 1)
		logitsOf := func(x *tensor.Matrix) *tensor.Matrix {
			l := tensor.New(x.Rows, w.Model.Vocab)
			head.Logits(w.Runner, l, x)
			return l
		}
		loss := func(x *tensor.Matrix) (sum float64) {
			l := logitsOf(x)
			return decoder.NLL(l.Row(0), 3) + decoder.NLL(l.Row(1), 5) + decoder.KL(other.Row(2), l.Row(2)) + decoder.KL(other.Row(3), l.Row(3))
		}
		logits, g, dx := logitsOf(x), tensor.New(4, w.Model.Vocab), tensor.New(4, w.Model.Hidden)
		decoder.NLLBack(g.Row(0), logits.Row(0), 3)
		decoder.NLLBack(g.Row(1), logits.Row(1), 5)
		decoder.KLBack(g.Row(2), other.Row(2), logits.Row(2))
		decoder.KLBack(g.Row(3), other.Row(3), logits.Row(3))
		head.Back(w.Runner, dx, x, logits, g)
		var want float64
		for _, v := range dx.Data {
			want += float64(v) * float64(v)
		}
		best := math.Inf(1)
		for _, h := range []float64{0.3, 0.1, 0.03} {
			at := func(h float64) float64 {
				y := x.Clone()
				for i, v := range dx.Data {
					y.Data[i] += float32(h * float64(v) / math.Sqrt(want))
				}
				return loss(y)
			}
			d := (8*(at(h)-at(-h)) - (at(2*h) - at(-2*h))) / (12 * h)
			best = min(best, math.Abs(d/math.Sqrt(want)-1))
		}
		require.Less(t, best, 1e-3, file)
	}
}

// TestReversible checks that models through which no gradient goes back say so.
func TestReversible(t *testing.T) {
	for name, what := range map[string]string{
		"mamba": "convolution", "minimax": "linear attention with decay", "llama-linear": "", "gpt-oss": "", "deepseek-v3": "",
	} {
		data, err := os.ReadFile("../../testdata/architectures/" + name + "/config.json")
		require.NoError(t, err)
		m, err := arch.ParseConfig(data)
		require.NoError(t, err)
		if err = walk.Reversible(m); what == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, program.ErrNoGradient)
		require.ErrorContains(t, err, what)
	}
}
