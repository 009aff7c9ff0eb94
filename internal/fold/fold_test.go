package fold

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

func roundBF16(v float32) float32 {
	var half [1]uint16
	tensor.F32ToBF16(half[:], []float32{v})
	return math.Float32frombits(uint32(half[0]) << 16)
}

func exact(v float32) float32 { return v }

var roundings = map[string]func(float32) float32{"f32": exact, "f16": tensor.RoundF16, "bf16": roundBF16}

// randomBlock is a block whose gains and biases are exact in a type.
func randomBlock(c *llama.Config, index int, rng *rand.Rand, round func(float32) float32) *llama.Block {
	gain := func(n int, mean, dev float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = round(float32(mean + dev*rng.NormFloat64()))
		}
		return v
	}
	b := &llama.Block{Index: index, AttnNorm: gain(c.Hidden, 1, 0.3), MLPNorm: gain(c.Hidden, 1, 0.3)}
	if c.QKNorm {
		b.QNorm, b.KNorm = gain(c.HeadDim, 1.5, 0.3), gain(c.HeadDim, 1.5, 0.3)
	}
	for _, info := range c.Linears(index) {
		l := b.Linear(info.Role)
		l.Name = info.Name
		l.Weight = tensor.New(info.Out, info.In)
		for i := range l.Weight.Data {
			l.Weight.Data[i] = float32(rng.NormFloat64() / math.Sqrt(float64(info.In)))
		}
		if info.Bias {
			l.Bias = gain(info.Out, 0, 0.5)
			l.Bias[0] = 0
		}
	}
	return b
}

func forward(t require.TestingT, c *llama.Config, b *llama.Block, x *tensor.Matrix, seq int) *tensor.Matrix {
	r, err := llama.NewRunner(c, 1)
	require.NoError(t, err)
	y := x.Clone()
	require.NoError(t, r.Forward(b, y, seq, nil))
	return y
}

// near requires the same up to a share of the size of the rows.
func near(t require.TestingT, want, got *tensor.Matrix, tolerance float64, what string) {
	for r := range want.Rows {
		var diff, size float64
		for j, v := range want.Row(r) {
			diff = max(diff, math.Abs(float64(v)-float64(got.At(r, j))))
			size = max(size, math.Abs(float64(v)))
		}
		require.LessOrEqual(t, diff, tolerance*size, "%s, row %d", what, r)
	}
}

// TestFoldingPreservesTheFunction is over random configurations and factors,
// one input at a time and all together: the output of a block, and the
// quotients of the inputs that its linears see.
func TestFoldingPreservesTheFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kv := rapid.IntRange(1, 3).Draw(t, "kv heads")
		c := &llama.Config{ModelType: "llama", Layers: 1, Vocab: 8, NormEps: 1e-5, RopeTheta: 1e4,
			KVHeads: kv, Heads: kv * rapid.IntRange(1, 3).Draw(t, "queries a kv head"),
			HeadDim: 2 * rapid.IntRange(1, 5).Draw(t, "half head"),
			Hidden:  rapid.IntRange(2, 30).Draw(t, "hidden"), Intermediate: rapid.IntRange(2, 40).Draw(t, "intermediate"),
			QKVBias: rapid.Bool().Draw(t, "qkv bias"), OBias: rapid.Bool().Draw(t, "o bias"),
			MLPBias: rapid.Bool().Draw(t, "mlp bias"), QKNorm: rapid.Bool().Draw(t, "qk norm"),
		}
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		round := roundings[rapid.SampledFrom([]string{"f32", "f16", "bf16"}).Draw(t, "type")]
		b := randomBlock(c, 0, rng, round)
		x := tensor.New(24, c.Hidden)
		for i := range x.Data {
			x.Data[i] = float32(rng.NormFloat64())
		}
		spread := rapid.Float64Range(0, 2).Draw(t, "spread")
		all := New(c, b)
		want := forward(t, c, b, x, 12)
		for in := range llama.Inputs {
			factors := make([]float64, Channels(c, in))
			for i := range factors {
				factors[i] = math.Exp(spread * rng.NormFloat64())
			}
			one := New(c, b)
			one.Set(in, factors, round)
			all.Set(in, factors, round)
			near(t, want, forward(t, c, one.Block(), x, 12), 2e-5, in.String())
		}
		folded := all.Block()
		near(t, want, forward(t, c, folded, x, 12), 2e-5, "all")

		// What is stored is exact in its type.
		for name, v := range all.Stored() {
			for _, f := range v {
				require.Equal(t, round(f), f, name)
			}
		}
		// The inputs of the linears are what Input says.
		seen := observe(t, c, b, x)
		for in, after := range observe(t, c, folded, x) {
			if f := all.Input(llama.Input(in)); f != nil {
				for r := range seen[in].Rows {
					for j := range f {
						seen[in].Row(r)[j] *= f[j]
					}
				}
			}
			near(t, seen[in], after, 1e-4, llama.Input(in).String())
		}
		// Restore undoes Weight.
		for role := range llama.Roles {
			w := b.Linear(role).Weight
			near(t, w, all.Restore(role, folded.Linear(role).Weight), 1e-6, role.String())
		}
	})
}

func observe(t require.TestingT, c *llama.Config, b *llama.Block, x *tensor.Matrix) [llama.Inputs]*tensor.Matrix {
	var seen [llama.Inputs]*tensor.Matrix
	r, err := llama.NewRunner(c, 1)
	require.NoError(t, err)
	require.NoError(t, r.Forward(b, x.Clone(), 12, func(in llama.Input, x *tensor.Matrix) error {
		seen[in] = x.Clone()
		return nil
	}))
	return seen
}

func testConfig() *llama.Config {
	return &llama.Config{ModelType: "qwen2", Layers: 1, Vocab: 8, NormEps: 1e-5, RopeTheta: 1e4,
		KVHeads: 2, Heads: 6, HeadDim: 4, Hidden: 10, Intermediate: 12, QKVBias: true}
}

func TestFactors(t *testing.T) {
	c := testConfig()
	rng := rand.New(rand.NewPCG(1, 2))
	b := randomBlock(c, 3, rng, roundBF16)
	before := *b
	before.AttnNorm, before.V.Bias = slices.Clone(b.AttnNorm), slices.Clone(b.V.Bias)
	before.O.Weight, before.V.Weight = b.O.Weight.Clone(), b.V.Weight.Clone()
	s := New(c, b)

	// No factors, equal factors and nil Scales change nothing.
	var none *Scales
	for _, s := range []*Scales{none, s} {
		require.Nil(t, s.Input(llama.AttnInput))
		require.Nil(t, s.Output(llama.V))
		require.Same(t, b.V.Weight, s.Weight(llama.V, b.V.Weight))
		require.Same(t, b.V.Weight, s.Restore(llama.V, b.V.Weight))
		require.Empty(t, s.Stored())
	}
	require.False(t, s.Set(llama.AttnInput, slices.Repeat([]float64{3}, 10), roundBF16))
	require.False(t, s.Set(llama.AttnInput, nil, roundBF16))
	require.Panics(t, func() { s.Set(llama.AttnOutput, make([]float64, 24), exact) })

	// Heads 0, 1, 2 read kv head 0, the others 1.
	f := []float64{1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1}
	require.True(t, s.Set(llama.AttnOutput, f, roundBF16))
	want := []float32{1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1, 1. / 8, 1. / 4, 1. / 2, 1, 1. / 8, 1. / 4, 1. / 2, 1}
	require.Equal(t, want, s.Input(llama.AttnOutput))
	require.Equal(t, []float32{1, 2, 4, 8, 1. / 8, 1. / 4, 1. / 2, 1}, s.Output(llama.V))
	require.Nil(t, s.Output(llama.Up))
	w := s.Weight(llama.O, b.O.Weight)
	require.InDelta(t, b.O.Weight.At(5, 3)/8, w.At(5, 3), 1e-6)
	require.InDelta(t, b.O.Weight.At(5, 16)*8, w.At(5, 16), 1e-5)
	require.InDelta(t, b.V.Weight.At(3, 7)*8, s.Weight(llama.V, b.V.Weight).At(3, 7), 1e-5)
	require.Contains(t, s.Stored(), "model.layers.3.self_attn.v_proj.bias")
	require.Equal(t, []float32{4, 5, 6, 7, 16, 17, 18, 19}, Mean(c, llama.AttnOutput,
		[]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}))

	// A factor out of the type's range, a dead channel and one without a
	// usable statistic leave their channel alone.
	b.AttnNorm[0], b.AttnNorm[1] = 0, 1e-7
	before.AttnNorm[0], before.AttnNorm[1] = 0, 1e-7
	g := []float64{2, 1. / 64, 0, math.Inf(1), math.NaN(), 8, 1. / 8, 1, 1, 1}
	require.True(t, s.Set(llama.AttnInput, g, tensor.RoundF16))
	got := s.Input(llama.AttnInput)
	require.Equal(t, []float32{1, 1}, got[:2])
	for _, j := range []int{2, 3, 4} {
		require.InDelta(t, 1, got[j], 1e-3)
	}
	require.InDelta(t, 64, got[5]/got[6], 0.2)
	require.Equal(t, before.AttnNorm, b.AttnNorm)
	require.Equal(t, before.V, b.V)
	require.Equal(t, before.O, b.O)
}

func TestPlaces(t *testing.T) {
	c := testConfig()
	for _, info := range c.Linears(0) {
		require.Equal(t, info.Input, InputOf(info.Role))
		require.Equal(t, info.In, len(New(c, randomBlock(c, 0, rand.New(rand.NewPCG(1, 1)), exact)).mustSet(t, info.Input)))
		if in, ok := After(info.Role); ok {
			role, ok := Before(in)
			require.True(t, ok)
			require.Equal(t, info.Role, role)
			require.Equal(t, Channels(c, in), info.Out)
			require.Contains(t, info.Name, Into(in))
		}
	}
	b := randomBlock(c, 2, rand.New(rand.NewPCG(1, 1)), exact)
	for in, want := range []string{"model.layers.2.input_layernorm.weight", "model.layers.2.self_attn.v_proj.bias", "model.layers.2.post_attention_layernorm.weight", ""} {
		name, ok := Carrier(b, llama.Input(in))
		require.Equal(t, want != "", ok)
		if ok {
			require.Equal(t, want, name)
		}
	}
}

// mustSet sets some factors and returns them by input channel.
func (s *Scales) mustSet(t *testing.T, in llama.Input) []float32 {
	f := make([]float64, Channels(s.cfg, in))
	for i := range f {
		f[i] = 1 + float64(i)
	}
	require.True(t, s.Set(in, f, exact))
	return s.Input(in)
}

// TestRealModel folds factors into all blocks of a model and compares logits.
func TestRealModel(t *testing.T) {
	src, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	defer src.Close()
	c, err := llama.ParseConfig(src.Config())
	require.NoError(t, err)
	m, err := llama.LoadModel(c, src, 2)
	require.NoError(t, err)
	ids := make([]int32, 96)
	for i := range ids {
		ids[i] = int32(7 * i * i % c.Vocab)
	}
	want, err := m.Logits(ids)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(3, 3))
	for i, b := range m.Blocks {
		s := New(c, b)
		for in := range llama.Inputs {
			factors := make([]float64, Channels(c, in))
			for i := range factors {
				factors[i] = math.Exp(rng.NormFloat64())
			}
			name, ok := Carrier(b, in)
			round := exact
			if dtype, _ := src.DType(name); ok && dtype == safetensors.BF16 {
				round = roundBF16
			} else if ok && dtype == safetensors.F16 {
				round = tensor.RoundF16
			}
			require.True(t, s.Set(in, factors, round))
		}
		m.Blocks[i] = s.Block()
	}
	got, err := m.Logits(ids)
	require.NoError(t, err)
	near(t, want, got, 1e-5, "logits")
}
