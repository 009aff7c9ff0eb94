package diagnosis

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/nn"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/tensor"
)

const architectures = "../../testdata/architectures"

func open(t *testing.T, dir string, workers int) *measure.Model {
	t.Helper()
	src, err := checkpoint.Open(dir)
	require.NoError(t, err)
	m, err := measure.Open(src, false, workers)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// windows are those of the reference logits of a tiny model, n of them, all different.
func windows(t *testing.T, dir string, n int) [][]int32 {
	t.Helper()
	var ref struct {
		IDs [][]int32 `json:"input_ids"`
	}
	data, err := os.ReadFile(filepath.Join(dir, "reference.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &ref))
	for len(ref.IDs) < n {
		ids := append([]int32{}, ref.IDs[len(ref.IDs)-2]...)
		last := len(ids) - 1
		ref.IDs = append(ref.IDs, append([]int32{ids[last]}, ids[:last]...))
	}
	return ref.IDs
}

// stored is a pass of a model with all that is computed.
type stored struct {
	inputs  [][]*tensor.Matrix    // by block and stage, [tokens, width]
	outputs [][]*tensor.Matrix    // what linears that add to the stream compute
	blocks  []*tensor.Matrix      // the stream
	heads   []map[int][][]float64 // by block and head, the weights [query, key] of all windows, one below the other
}

// store runs windows one by one.
func store(t *testing.T, m *measure.Model, windows [][]int32) *stored {
	n := len(windows[0])
	w := &walk.Walk{Model: m.Model, Weights: m.Source(), Runner: m.Runner, SeqLen: n, Store: streams.New(m.Runner, streams.Unlimited, nil)}
	e, err := m.Model.OpenEmbedding(m.Source())
	require.NoError(t, err)
	x, err := w.Embed(e, windows)
	require.NoError(t, err)
	s := &stored{}
	err = w.Blocks(t.Context(), m.Model.Layers, func(b *program.Block) error {
		in, out := make([]*tensor.Matrix, len(b.Stages)), make([]*tensor.Matrix, len(b.Stages))
		heads := map[int][][]float64{}
		var mu sync.Mutex
		m.Runner.Heads = func(h *nn.Heads, _ *nn.Scratch, row int) {
			mu.Lock()
			defer mu.Unlock()
			attend(heads, h, row, x.Rows)
		}
		defer func() { m.Runner.Heads = nil }()
		err := m.Runner.Forward(b, x, n, func(stage int, f *program.Frame) error {
			s := &b.Stages[stage]
			in[stage] = f.Input(s).Clone()
			if s.Residual && s.Expert < 0 {
				y := tensor.New(x.Rows, m.Model.Hidden)
				for _, i := range s.Linears {
					l := b.Linear(i)
					tensor.Gemm(false, true, 1, in[stage], l.Weight, 1, y, 1)
					for r := range y.Rows {
						for j, v := range l.Bias {
							y.Row(r)[j] += v
						}
					}
				}
				out[stage] = y
			}
			return nil
		})
		s.inputs, s.outputs, s.blocks, s.heads = append(s.inputs, in), append(s.outputs, out), append(s.blocks, x.Clone()), append(s.heads, heads)
		return err
	})
	require.NoError(t, err)
	return s
}

// attend computes the weights of a tile from its queries and keys.
func attend(heads map[int][][]float64, h *nn.Heads, row, rows int) {
	for k, c := range h.Columns {
		head := h.First + k
		if heads[head] == nil {
			heads[head] = make([][]float64, rows)
		}
		for q := h.Q0; q < h.Q1; q++ {
			scores := make([]float64, h.Q.Rows)
			sum := 0.0
			for p := range scores {
				scores[p] = math.Inf(-1)
				if p <= q && (h.Window == 0 || p > q-h.Window) {
					v := 0.0
					for j := range h.Dim {
						v += float64(h.Q.Row(q)[c+j]) * float64(h.K.Row(p)[j])
					}
					v *= h.Scale
					if h.Cap > 0 {
						v = h.Cap * math.Tanh(v/h.Cap)
					}
					scores[p] = v
				}
				sum += math.Exp(scores[p])
			}
			if h.Sinks != nil {
				sum += math.Exp(float64(h.Sinks[k]))
			}
			for p := range scores {
				scores[p] = math.Exp(scores[p]) / sum
				if h.Clip != (nn.Clip{}) {
					scores[p] = min(1, max(0, (h.Clip.High-h.Clip.Low)*scores[p]+h.Clip.Low))
				}
			}
			heads[head][row+q] = scores
		}
	}
}

// plain computes an Activation in the plainest way; n is the rows of a window, 0 for all.
func plain(x *tensor.Matrix, n int) (a Activation) {
	if n == 0 {
		n = x.Rows
	}
	far := map[int]bool{}
	count := 0.0
	for r0 := 0; r0 < x.Rows; r0 += n {
		var all []float64
		for r := r0; r < r0+n; r++ {
			for j, v := range x.Row(r) {
				all = append(all, float64(v))
				if math.Abs(float64(v)) >= 6 {
					far[j] = true
				}
			}
		}
		mean, m2, m4, inf := 0.0, 0.0, 0.0, 0.0
		for _, v := range all {
			mean += v / float64(len(all))
			inf = max(inf, math.Abs(v))
		}
		for _, v := range all {
			m2 += (v - mean) * (v - mean) / float64(len(all))
			m4 += math.Pow(v-mean, 4) / float64(len(all))
		}
		a.Largest = max(a.Largest, inf)
		a.InfNorm += inf
		a.Kurtosis += m4 / (m2 * m2)
		count++
	}
	a.InfNorm /= count
	a.Kurtosis /= count
	a.Outliers = len(far)
	return a
}

func requireActivation(t *testing.T, want, got Activation) {
	t.Helper()
	require.InEpsilon(t, want.Largest, got.Largest, 1e-4, got.Name)
	require.InEpsilon(t, want.InfNorm, got.InfNorm, 1e-4, got.Name)
	require.InEpsilon(t, want.Kurtosis, got.Kurtosis, 1e-4, got.Name)
	require.Equal(t, want.Outliers, got.Outliers, got.Name)
}

// TestLook holds what is seen to what a twin computes from all activations and all weights of
// attention: models with windows, caps, sinks, clipped weights and experts among them, in
// several parts and on any number of workers.
func TestLook(t *testing.T) {
	for _, name := range []string{"opt", "opt-clipped", "llama-yarn", "gemma2", "gpt-oss", "qwen2-moe"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(architectures, name)
			m := open(t, dir, 1)
			ids := windows(t, dir, 5)
			n := len(ids[0])
			apart := make([]bool, m.Model.Vocab)
			for i := 0; i < len(apart); i += 7 {
				apart[i] = true
			}
			w := store(t, m, ids)
			steps := 0
			got, err := Look(t.Context(), m, Options{Windows: ids, Separators: apart, Step: func(done, total int) {
				steps++
				require.Equal(t, steps, done)
				require.Equal(t, m.Model.Layers, total)
			}})
			require.NoError(t, err)
			require.Equal(t, m.Model.Layers, steps)
			separate := 0.0
			for _, w := range ids {
				for _, id := range w[1:] {
					if id%7 == 0 {
						separate++
					}
				}
			}
			require.InDelta(t, separate/float64(len(ids)*(n-1)), got.Separators, 1e-12)
			k, o := 0, 0
			for b, p := range m.Model.Blocks {
				requireActivation(t, plain(w.blocks[b], n), got.Blocks[b])
				for i, s := range p.Stages {
					if s.Expert < 0 {
						requireActivation(t, plain(w.inputs[b][i], n), got.Inputs[k])
					} else if w.inputs[b][i].Rows > 0 {
						requireActivation(t, plain(w.inputs[b][i], 0), got.Inputs[k])
					}
					k++
					if y := w.outputs[b][i]; y != nil {
						requireActivation(t, plain(y, n), got.Outputs[o])
						o++
					}
				}
				requireHeads(t, w.heads[b], ids, apart, got, &got.Heads[b])
			}
			require.Len(t, got.Inputs, k)
			require.Len(t, got.Outputs, o)
			again, err := Look(t.Context(), open(t, dir, 5), Options{Windows: ids, Separators: apart})
			require.NoError(t, err)
			require.Equal(t, got, again)
		})
	}
}

func requireHeads(t *testing.T, heads map[int][][]float64, ids [][]int32, apart []bool, seen *Seen, got *Attention) {
	t.Helper()
	n := len(ids[0])
	require.Len(t, got.First, len(heads))
	for h, rows := range heads {
		var first, between, nothing float64
		for row, weights := range rows {
			if row%n == 0 {
				continue
			}
			first += weights[0]
			all := 0.0
			for p, v := range weights {
				all += v
				if p > 0 && apart[ids[row/n][p]] {
					between += v
				}
			}
			nothing += 1 - all
		}
		tokens := float64(len(rows) - len(ids))
		require.InDelta(t, first/tokens, got.First[h], 1e-5)
		require.InDelta(t, between/tokens, got.Separators[h], 1e-5)
		require.InDelta(t, nothing/tokens, got.Nothing[h], 1e-5)
		total := first + nothing
		if share := seen.Separators * tokens; between > share {
			total += between - share
		}
		require.InDelta(t, total/tokens, seen.Idle(got, h), 3e-5)
	}
}

// TestFeatures puts outliers into the hidden state of a model: those that are frequent enough,
// in enough blocks, are told.
func TestFeatures(t *testing.T) {
	l := &looker{states: 2 * 8}
	l.o = &Options{Windows: [][]int32{make([]int32, 50), make([]int32, 50)}}
	m := open(t, filepath.Join(architectures, "opt"), 1)
	d := *m.Model
	d.Layers, d.Hidden, d.Blocks = 8, 4, nil
	l.walk = &walk.Walk{Model: &d, SeqLen: 50}
	l.hidden = make([]*feature, d.Hidden)
	for j := range l.hidden {
		l.hidden[j] = &feature{blocks: make([]bool, d.Layers)}
	}
	// Of 100 tokens in two hidden states of each of eight blocks: channel 0 in two blocks at 96 of
	// the 1600, channel 1 once less, channel 2 in one block at 200, channel 3 everywhere, but small.
	for b := range d.Layers {
		for range 2 {
			x := tensor.New(100, 4)
			for i := range 100 {
				if b < 2 && i < 24 {
					x.Row(i)[0], x.Row(i)[1] = -6, 7
				}
				if b == 5 {
					x.Row(i)[2] = 60
				}
				x.Row(i)[3] = 5.99
			}
			if b == 0 {
				x.Row(3)[1] = 0
			}
			l.features(b, x)
		}
	}
	require.Equal(t, []Feature{{Channel: 0, Largest: 6, Blocks: 0.25, Tokens: 0.06}}, l.found())
}

func TestKurtosis(t *testing.T) {
	require.Zero(t, kurtosis([5]float64{}))
	require.Zero(t, kurtosis([5]float64{3, 3 * .1, 3 * .01, 3 * .001, 3 * .0001}), "all equal")
	require.InDelta(t, 1, kurtosis([5]float64{2, 0, 2, 0, 2}), 1e-12, "one and minus one")
	require.InDelta(t, 1.8, kurtosis([5]float64{1, 0, 1. / 3, 0, 1. / 5}), 1e-12, "uniform from -1 to 1")
}

func TestLookFails(t *testing.T) {
	dir := filepath.Join(architectures, "opt")
	m := open(t, dir, 1)
	_, err := Look(t.Context(), m, Options{Windows: [][]int32{{1}}})
	require.ErrorContains(t, err, "opt: want windows of at least two tokens")
	ids := windows(t, dir, 2)
	_, err = Look(t.Context(), m, Options{Windows: ids, Memory: 1 << 10})
	require.ErrorContains(t, err, "memory")
	ids[1][3] = 1000
	_, err = Look(t.Context(), m, Options{Windows: ids})
	require.ErrorContains(t, err, "1000")
	ctx, cancel := context.WithCancel(t.Context())
	ids[1][3] = 1
	_, err = Look(ctx, m, Options{Windows: ids, Step: func(done, _ int) { cancel() }})
	require.ErrorIs(t, err, context.Canceled)
	require.Nil(t, m.Runner.Heads)
}
