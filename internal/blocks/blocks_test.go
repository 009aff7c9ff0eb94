package blocks_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/blocks"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/fold"
	"github.com/golowbit/lowbit/internal/held"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/internal/streams"
	"github.com/golowbit/lowbit/internal/walk"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// rounded quantizes by rounding, and remembers what it was shown.
type rounded struct {
	t         *testing.T
	scheme    quant.Scheme
	done      map[string]bool
	order     []string
	h         map[string]*tensor.Matrix
	weights   map[string]*tensor.Matrix
	routed    map[string]int
	corrected int
	settled   []string
	stop      string // fails at this layer
	made      map[string]*quant.Weight
	held      int64  // so much of experts' weights is kept; 0: all
	read      int    // how often layers were read back
	hide      string // a layer whose weight cannot be read
}

// hidden are weights one of which cannot be read.
type hidden struct {
	program.Weights
	layer string
}

func (h hidden) Matrix(name string) (*tensor.Matrix, error) {
	if name == h.layer+".weight" {
		return nil, errors.New("unreadable")
	}
	return h.Weights.Matrix(name)
}

var errStopped = errors.New("stopped")

func (r *rounded) Pending(name string) bool { return !r.done[name] }

func (r *rounded) Quantize(ctx context.Context, l blocks.Task) (*quant.Weight, error) {
	if l.Name == r.stop {
		return nil, errStopped
	}
	require.Equal(r.t, r.done[l.Name], l.Calibration == nil, l.Name)
	if l.Calibration != nil {
		r.h[l.Name], r.routed[l.Name] = l.Calibration.H, l.Routed
	}
	r.order, r.done[l.Name], r.weights[l.Name] = append(r.order, l.Name), true, l.Weight
	if q := r.made[l.Name]; q != nil {
		return q, nil
	}
	q, err := quant.RTN{}.Quantize(ctx, l.Target, r.scheme, nil)
	r.made[l.Name] = q
	return q, err
}

func (r *rounded) Settle(name string) error {
	r.settled = append(r.settled, name)
	return nil
}

func (r *rounded) Correct(weights []*tensor.Matrix, c *quant.Collector, scale func(*quant.Calibration) *quant.Calibration) ([]*tensor.Matrix, *quant.Calibration, error) {
	r.corrected += len(weights)
	return weights, scale(c.Calibration()), nil
}

func (r *rounded) Folding(*program.Block) *fold.Search                { panic("nothing folds") }
func (r *rounded) Fold(map[string][]float32, map[string]string) error { panic("nothing folds") }
func (r *rounded) Note(string, []byte) error                          { panic("nothing folds") }
func (r *rounded) Noted(string) ([]byte, bool)                        { return nil, false }

// run takes eight windows through the embedded model.
func run(t *testing.T, layers *rounded, o blocks.Options) (*walk.Walk, error) {
	return runOn(t, "../../testdata/tinyllama-2m", layers, o)
}

func runOn(t *testing.T, model string, layers *rounded, o blocks.Options) (*walk.Walk, error) {
	return runIn(t.Context(), t, model, layers, o)
}

func runIn(ctx context.Context, t *testing.T, model string, layers *rounded, o blocks.Options) (*walk.Walk, error) {
	src, err := checkpoint.Open(model)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, src.Close()) })
	m, err := arch.Open(src)
	require.NoError(t, err)
	const seqLen = 64
	rng := rand.New(rand.NewPCG(1, 2))
	windows := make([][]int32, 8)
	for i := range windows {
		for range seqLen {
			windows[i] = append(windows[i], int32(rng.IntN(m.Vocab)))
		}
	}
	runner := program.NewRunner(2)
	w := &walk.Walk{Model: m, Weights: src, Runner: runner, SeqLen: seqLen, Store: streams.New(runner, 1<<40, nil)}
	layers.t, layers.scheme = t, quant.Scheme{Bits: 3, GroupSize: 64}
	layers.routed = map[string]int{}
	if layers.made == nil {
		layers.made = map[string]*quant.Weight{}
	}
	if layers.held > 0 {
		w.Held = &held.Set{Limit: layers.held}
		w.Weights = w.Held.Experts(hidden{src, layers.hide}, m.Blocks)
		o.Made = func(name string) (*quant.Weight, error) {
			layers.read++
			return layers.made[name], nil
		}
	}
	layers.h, layers.weights = map[string]*tensor.Matrix{}, map[string]*tensor.Matrix{}
	if layers.done == nil {
		layers.done = map[string]bool{}
	}
	o.Begin, o.Workers, o.Statistics = func(int) {}, 2, 1<<40
	for _, b := range m.Blocks {
		o.Folds = append(o.Folds, make([]bool, len(b.Stages)))
	}
	return w, blocks.Run(ctx, w, windows, layers, o)
}

// apart is the norm of the difference by that of a.
func apart(a, b *tensor.Matrix) float64 {
	var d, n float64
	for i, v := range a.Data {
		d += math.Pow(float64(v)-float64(b.Data[i]), 2)
		n += math.Pow(float64(v), 2)
	}
	return math.Sqrt(d / n)
}

// TestOrder: every linear is asked for once, in computing order, with its own weight; on
// quantized inputs what it sees depends on the layers before, and not on those behind.
func TestOrder(t *testing.T) {
	var seen []map[string]*tensor.Matrix
	for _, o := range []blocks.Options{{Full: true}, {}, {Paired: true}} {
		r := &rounded{}
		w, err := run(t, r, o)
		require.NoError(t, err)
		var want []string
		for _, l := range w.Model.Linears() {
			want = append(want, l.Name)
			m, err := w.Weights.Matrix(l.WeightName())
			require.NoError(t, err)
			require.Zero(t, apart(m, r.weights[l.Name]), l.Name)
		}
		require.ElementsMatch(t, want, r.order)
		require.Empty(t, r.settled)
		if o.Paired {
			require.Equal(t, len(want), r.corrected)
		} else {
			require.Zero(t, r.corrected)
		}
		seen = append(seen, r.h)
	}
	const first, later = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"
	full, quantized, paired := seen[0], seen[1], seen[2]
	require.Less(t, apart(full[first], quantized[first]), 1e-5)
	require.Greater(t, apart(full[later], quantized[later]), 1e-2)
	require.Less(t, apart(quantized[later], paired[later]), 1e-5)
}

// TestTakenUp: a run that was stopped, wherever that was in a block, goes on from there and
// shows the layers behind the same; where nothing is left no text is needed.
func TestTakenUp(t *testing.T) {
	whole := &rounded{}
	w, err := run(t, whole, blocks.Options{Paired: true})
	require.NoError(t, err)
	var rest *rounded
	for _, l := range w.Model.Blocks[2].Linears {
		stopped := &rounded{stop: l.Name}
		_, err = run(t, stopped, blocks.Options{Paired: true})
		require.ErrorIs(t, err, errStopped)
		rest = &rounded{done: stopped.done}
		_, err = run(t, rest, blocks.Options{Paired: true})
		require.NoError(t, err)
		require.NotEmpty(t, rest.h)
		require.Less(t, len(rest.h), len(whole.h))
		for name, h := range rest.h {
			require.Zero(t, apart(whole.h[name], h), "%s, stopped at %s", name, l.Name)
		}
	}
	again := &rounded{done: rest.done}
	_, err = run(t, again, blocks.Options{})
	require.NoError(t, err)
	require.Empty(t, again.order)
	require.Len(t, again.settled, len(w.Model.Linears()))
}

// TestExperts: with RouteAll every expert sees all tokens, with Pool others count a little
// among its own; what the text is behind them stays the same, and how many were routed to
// each is told.
func TestExperts(t *testing.T) {
	const model, tokens = "../../testdata/architectures/qwen3-moe", 8 * 64
	var runs []*rounded
	var w *walk.Walk
	for _, o := range []blocks.Options{{Full: true}, {Full: true, RouteAll: true}, {Full: true, Pool: true}, {}, {Pool: true}} {
		r := &rounded{}
		var err error
		w, err = runOn(t, model, r, o)
		require.NoError(t, err)
		runs = append(runs, r)
	}
	own, all, pooled := runs[0], runs[1], runs[2]
	require.Equal(t, own.routed, all.routed)
	require.Equal(t, own.routed, pooled.routed)
	require.Equal(t, own.order, pooled.order)
	routed, first := 0, ""
	for _, b := range w.Model.Blocks {
		for _, l := range b.Linears {
			if b.Stages[l.Stage].Expert < 0 {
				require.Equal(t, -1, own.routed[l.Name], l.Name)
				require.Equal(t, own.h[l.Name].Data, all.h[l.Name].Data, "%s sees another text", l.Name)
				require.Equal(t, own.h[l.Name].Data, pooled.h[l.Name].Data, "%s sees another text", l.Name)
				continue
			}
			if strings.HasSuffix(l.Name, ".gate_proj") {
				routed += own.routed[l.Name]
				first = regexp.MustCompile(`\.\d+\.gate_proj$`).ReplaceAllString(l.Name, ".0.gate_proj")
				require.Less(t, apart(all.h[first], all.h[l.Name]), 1e-5, "all tokens are the same to all")
			}
			// The others are a sample.
			weight := float32(blocks.Prior) * float32(l.In) / tokens
			want := own.h[l.Name].Clone()
			for i, v := range all.h[l.Name].Data {
				want.Data[i] += weight * (v - want.Data[i])
			}
			require.Less(t, apart(want, pooled.h[l.Name]), 0.1, l.Name)
		}
	}
	require.Zero(t, routed%tokens)
	require.Positive(t, routed)
	// Experts of the last block, on quantized inputs.
	require.Greater(t, apart(runs[3].h[first], runs[4].h[first]), 1e-3)
}

// TestHeld: where weights of experts are read only when they are needed, layers see the
// same, whatever is kept of them, and in a run that takes up another.
func TestHeld(t *testing.T) {
	for _, model := range []string{"qwen3-moe", "gpt-oss", "granitemoe-shared"} {
		model := "../../testdata/architectures/" + model
		for _, o := range []blocks.Options{{Full: true}, {}, {Paired: true, Pool: true}} {
			whole := &rounded{}
			w, err := runOn(t, model, whole, o)
			require.NoError(t, err)
			stopped := &rounded{held: 1}
			for _, l := range w.Model.Blocks[1].Linears {
				if l.Expert >= 0 {
					stopped.stop = l.Name
				}
			}
			_, err = runOn(t, model, stopped, o)
			require.ErrorIs(t, err, errStopped)
			for _, r := range []*rounded{{held: 1 << 40}, {held: 1}, {held: 1, done: stopped.done, made: stopped.made}} {
				_, err := runOn(t, model, r, o)
				require.NoError(t, err)
				require.NotEmpty(t, r.h)
				for name, h := range r.h {
					require.Equal(t, whole.h[name], h, name)
					require.Equal(t, whole.weights[name], r.weights[name], name)
				}
				require.Equal(t, r.held == 1 && !o.Full, r.read > 0)
				require.Equal(t, whole.made, r.made)
			}
		}
	}
}

// TestHeldFails: a weight that cannot be read ends the run, with its name.
func TestHeldFails(t *testing.T) {
	for _, o := range []blocks.Options{{Full: true}, {}} {
		r := &rounded{held: 1, hide: "model.layers.1.mlp.experts.0.up_proj"}
		_, err := runOn(t, "../../testdata/architectures/qwen3-moe", r, o)
		require.ErrorContains(t, err, r.hide)
	}
}

// TestTokens: a report that says how many tokens an expert saw keeps nothing else of it.
func TestTokens(t *testing.T) {
	free := make(chan bool, 1)
	task := &blocks.Task{Weight: tensor.New(30, 40), Routed: 3}
	runtime.AddCleanup(task.Weight, func(int) { free <- true }, 0)
	n := task.Tokens()
	require.Equal(t, 3, *n)
	task = nil
	require.Eventually(t, func() bool {
		runtime.GC()
		return len(free) > 0
	}, time.Minute, time.Millisecond)
	runtime.KeepAlive(n)
	require.Nil(t, (&blocks.Task{Routed: -1}).Tokens())
}
