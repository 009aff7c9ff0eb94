package fold

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

func exact(_ string, v float32) float32 { return v }

var roundings = map[string]Round{
	"f32": exact, "f16": func(_ string, v float32) float32 { return tensor.RoundF16(v) },
	"bf16": func(_ string, v float32) float32 { return tensor.RoundBF16(v) },
}

// shape is a small model, as config.json says it.
type shape struct {
	kind                                          string
	heads, kvHeads, headDim, hidden, intermediate int
	bias                                          bool
}

func (s shape) block(t require.TestingT) *program.Program {
	class := map[string]string{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "gemma3_text": "Gemma3ForCausalLM"}
	config := fmt.Sprintf(`{"architectures": [%q], "model_type": %q, "num_hidden_layers": 1, "vocab_size": 8,
		"num_attention_heads": %d, "num_key_value_heads": %d, "head_dim": %d, "hidden_size": %d, "intermediate_size": %d,
		"attention_bias": %v, "mlp_bias": %v}`, class[s.kind], s.kind, s.heads, s.kvHeads, s.headDim, s.hidden, s.intermediate, s.bias, s.bias)
	m, err := arch.ParseConfig([]byte(config))
	require.NoError(t, err)
	return m.Blocks[0]
}

// randomWeights makes up a block's tensors; vectors are exact in a type.
type randomWeights struct {
	p     *program.Program
	rng   *rand.Rand
	round Round
}

func (w randomWeights) Shape(name string) ([]int, bool) { return w.p.Shape(name) }
func (w randomWeights) Has(name string) bool            { _, ok := w.Shape(name); return ok }

func (w randomWeights) Rows(string, int, int, []float32) ([]float32, error) {
	panic("no block here has stacked tensors")
}

func (w randomWeights) Matrix(name string) (*tensor.Matrix, error) {
	s, _ := w.Shape(name)
	m := tensor.New(s[0], s[1])
	for i := range m.Data {
		m.Data[i] = float32(w.rng.NormFloat64() / math.Sqrt(float64(s[1])))
	}
	return m, nil
}

func (w randomWeights) Vector(name string) ([]float32, error) {
	s, _ := w.Shape(name)
	v := make([]float32, s[0])
	for i := range v {
		v[i] = w.round(name, float32(1+0.3*w.rng.NormFloat64()))
	}
	if len(v) > 2 {
		v[1] = 0 // a channel that is off
	}
	return v, nil
}

func forward(t require.TestingT, b *program.Block, x *tensor.Matrix, seq int) *tensor.Matrix {
	y := x.Clone()
	require.NoError(t, program.NewRunner(1).Forward(b, y, seq, nil))
	return y
}

// near requires the same up to a share of the size of the largest element: rows
// that cancel to nearly nothing keep the rounding of what cancelled.
func near(t require.TestingT, want, got *tensor.Matrix, tolerance float64, what string) {
	var diff, size float64
	for r := range want.Rows {
		for j, v := range want.Row(r) {
			diff = max(diff, math.Abs(float64(v)-float64(got.At(r, j))))
			size = max(size, math.Abs(float64(v)))
		}
	}
	require.LessOrEqual(t, diff, tolerance*size, what)
}

// TestFoldingPreservesTheFunction is over random configurations and factors,
// one stage at a time and all together: the output of a block, and the
// quotients of the inputs that its linears see.
func TestFoldingPreservesTheFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kv := rapid.IntRange(1, 3).Draw(t, "kv heads")
		p := shape{
			kind:    rapid.SampledFrom([]string{"llama", "qwen2", "qwen3", "gemma3_text"}).Draw(t, "kind"),
			kvHeads: kv, heads: kv * rapid.IntRange(1, 3).Draw(t, "queries a kv head"),
			headDim: 2 * rapid.IntRange(1, 5).Draw(t, "half head"),
			hidden:  rapid.IntRange(4, 30).Draw(t, "hidden"), intermediate: rapid.IntRange(4, 40).Draw(t, "intermediate"),
			bias: rapid.Bool().Draw(t, "bias"),
		}.block(t)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		round := roundings[rapid.SampledFrom([]string{"f32", "f16", "bf16"}).Draw(t, "type")]
		b, err := p.Load(randomWeights{p, rng, round})
		require.NoError(t, err)
		x := tensor.New(24, p.Width())
		for i := range x.Data {
			x.Data[i] = float32(rng.NormFloat64())
		}
		spread := rapid.Float64Range(0, 2).Draw(t, "spread")
		all := New(b)
		want := forward(t, b, x, 12)
		for stage, s := range b.Stages {
			if s.Fold == nil {
				continue
			}
			factors := make([]float64, s.Fold.Channels)
			for i := range factors {
				factors[i] = math.Exp(spread * rng.NormFloat64())
			}
			one := New(b)
			one.Set(stage, factors, round)
			all.Set(stage, factors, round)
			near(t, want, forward(t, one.Block(), x, 12), 5e-5, s.Fold.Into)
		}
		folded := all.Block()
		near(t, want, forward(t, folded, x, 12), 5e-5, "all")

		// What is stored is exact in its type.
		for name, v := range all.Stored() {
			for _, f := range v {
				require.Equal(t, round(name, f), f, name)
			}
		}
		// The inputs of the linears are what Input says.
		seen := observe(t, b, x)
		for stage, after := range observe(t, folded, x) {
			if f := all.Input(stage); f != nil {
				for r := range seen[stage].Rows {
					for j := range f {
						seen[stage].Row(r)[j] *= f[j]
					}
				}
			}
			near(t, seen[stage], after, 1e-4, fmt.Sprint("stage ", stage))
		}
		// Restore undoes Weight.
		for i, l := range b.Linears {
			near(t, b.Linear(i).Weight, all.Restore(i, folded.Linear(i).Weight), 1e-6, l.Path)
		}
	})
}

func observe(t require.TestingT, b *program.Block, x *tensor.Matrix) []*tensor.Matrix {
	seen := make([]*tensor.Matrix, len(b.Stages))
	require.NoError(t, program.NewRunner(1).Forward(b, x.Clone(), 12, func(stage int, f *program.Frame) error {
		seen[stage] = f.Input(&b.Stages[stage]).Clone()
		return nil
	}))
	return seen
}

// Stages and linears of a block of Llama.
const (
	attnIn, oIn, downIn = 0, 1, 3
	v, o                = 2, 3
)

func TestFactors(t *testing.T) {
	bf16 := roundings["bf16"]
	p := shape{kind: "qwen2", kvHeads: 2, heads: 6, headDim: 4, hidden: 10, intermediate: 12}.block(t)
	b, err := p.Load(randomWeights{p, rand.New(rand.NewPCG(1, 2)), bf16})
	require.NoError(t, err)
	before := func() []any {
		var all []any
		for i := range b.Linears {
			all = append(all, b.Linear(i).Weight.Clone(), append([]float32(nil), b.Linear(i).Bias...))
		}
		return all
	}
	was := before()
	s := New(b)

	// No factors, equal factors and nil Scales change nothing.
	var none *Scales
	for _, s := range []*Scales{none, s} {
		require.Nil(t, s.Input(attnIn))
		require.Nil(t, s.Output(v))
		require.Same(t, b.Linear(v).Weight, s.Weight(v, b.Linear(v).Weight))
		require.Same(t, b.Linear(v).Weight, s.Restore(v, b.Linear(v).Weight))
		require.Empty(t, s.Stored())
	}
	same := make([]float64, 10)
	for i := range same {
		same[i] = 3
	}
	require.False(t, s.Set(attnIn, same, bf16))
	require.False(t, s.Set(attnIn, nil, bf16))
	require.Panics(t, func() { s.Set(oIn, make([]float64, 24), exact) })

	// Heads 0, 1, 2 read kv head 0, the others 1.
	f := []float64{1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1}
	require.True(t, s.Set(oIn, f, bf16))
	want := []float32{1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1, 1. / 8, 1. / 4, 1. / 2, 1, 1. / 8, 1. / 4, 1. / 2, 1}
	require.Equal(t, want, s.Input(oIn))
	require.Equal(t, []float32{1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1}, s.Output(v))
	require.Nil(t, s.Output(5))
	ow, vw := b.Linear(o).Weight, b.Linear(v).Weight
	w := s.Weight(o, ow)
	require.InDelta(t, ow.At(5, 3)/8, w.At(5, 3), 1e-6)
	require.InDelta(t, ow.At(5, 16)*8, w.At(5, 16), 1e-5)
	require.InDelta(t, vw.At(3, 7)*8, s.Weight(v, vw).At(3, 7), 1e-5)
	require.Contains(t, s.Stored(), "model.layers.0.self_attn.v_proj.bias")
	require.Equal(t, []float32{4, 5, 6, 7, 16, 17, 18, 19}, Mean(p.Stages[oIn].Fold,
		[]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}))

	// A factor out of the type's range, a dead channel and one without a
	// usable statistic leave their channel alone.
	index := p.Stages[attnIn].Fold.Vectors()[0]
	_, gain := b.Vector(index)
	gain[0], gain[1] = 0, 1e-7
	g := []float64{2, 1. / 64, 0, math.Inf(1), math.NaN(), 8, 1. / 8, 1, 1, 1}
	require.True(t, s.Set(attnIn, g, roundings["f16"]))
	got := s.Input(attnIn)
	require.Equal(t, []float32{1, 1}, got[:2])
	for _, j := range []int{2, 3, 4} {
		require.InDelta(t, 1, got[j], 1e-3)
	}
	require.InDelta(t, 64, got[5]/got[6], 0.2)
	require.Equal(t, was, before())
}

// TestRealModel folds factors into all blocks of a model and compares what
// leaves them.
func TestRealModel(t *testing.T) {
	src, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	defer src.Close()
	m, err := arch.ParseConfig(src.Config())
	require.NoError(t, err)
	e, err := m.LoadEmbedding(src)
	require.NoError(t, err)
	ids := make([]int32, 96)
	for i := range ids {
		ids[i] = int32(7 * i * i % m.Vocab)
	}
	want := tensor.New(len(ids), m.Hidden)
	require.NoError(t, e.Embed(want, ids))
	got := want.Clone()
	rng := rand.New(rand.NewPCG(3, 3))
	r := program.NewRunner(2)
	for _, p := range m.Blocks {
		b, err := p.Load(src)
		require.NoError(t, err)
		require.NoError(t, r.Forward(b, want, len(ids), nil))
		s := New(b)
		for stage := range b.Stages {
			factors := make([]float64, b.Stages[stage].Fold.Channels)
			for i := range factors {
				factors[i] = math.Exp(rng.NormFloat64())
			}
			require.True(t, s.Set(stage, factors, func(name string, v float32) float32 {
				if dtype, _ := src.DType(name); dtype == safetensors.BF16 {
					return tensor.RoundBF16(v)
				}
				return v
			}))
		}
		require.NoError(t, r.Forward(s.Block(), got, len(ids), nil))
	}
	near(t, want, got, 1e-5, "stream")
}
