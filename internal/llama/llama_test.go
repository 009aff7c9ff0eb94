package llama

import (
	"errors"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/tensor"
)

func TestLinears(t *testing.T) {
	c := base()
	c.QKVBias = true
	require.Equal(t, []LinearInfo{
		{"model.layers.1.self_attn.q_proj", Q, AttnInput, 24, 24, true},
		{"model.layers.1.self_attn.k_proj", K, AttnInput, 12, 24, true},
		{"model.layers.1.self_attn.v_proj", V, AttnInput, 12, 24, true},
		{"model.layers.1.self_attn.o_proj", O, AttnOutput, 24, 24, false},
		{"model.layers.1.mlp.gate_proj", Gate, MLPInput, 40, 24, false},
		{"model.layers.1.mlp.up_proj", Up, MLPInput, 40, 24, false},
		{"model.layers.1.mlp.down_proj", Down, MLPAct, 24, 40, false},
	}, c.Linears(1))
	b, err := LoadBlock(&c, randomWeights(&c, 1), 1)
	require.NoError(t, err)
	for i, l := range c.Linears(1) {
		require.Equal(t, l.Name, b.Linear(Role(i)).Name)
		require.Equal(t, l.Out, b.Linear(Role(i)).Weight.Rows)
		require.Equal(t, l.Bias, b.Linear(Role(i)).Bias != nil)
	}
	require.Equal(t, "gate", Gate.String())
	require.Equal(t, "down", MLPAct.String())
}

func TestBadWeights(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	const up = "model.layers.1.mlp.up_proj.weight"
	for _, tt := range []struct {
		name   string
		change func(c *Config, w memory)
		want   string
	}{
		{"transposed", func(_ *Config, w memory) { w[up] = w[up].T() }, `tensor "model.layers.1.mlp.up_proj.weight": shape [24 40], want [40 24]`},
		{"wrong dimensions", func(_ *Config, w memory) { w[up] = tensor.New(1, 960) }, `shape [960], want [40 24]`},
		{"missing", func(_ *Config, w memory) { delete(w, up) }, `tensor "model.layers.1.mlp.up_proj.weight": missing, want shape [40 24]`},
		{"NaN", func(_ *Config, w memory) { w[up].Set(3, 5, nan) }, `tensor "model.layers.1.mlp.up_proj.weight": element [3 5] is NaN, want finite weights`},
		{"infinity", func(_ *Config, w memory) { w["model.layers.0.input_layernorm.weight"].Set(0, 7, inf) }, `tensor "model.layers.0.input_layernorm.weight": element [7] is -Inf`},
		{"norm too short", func(_ *Config, w memory) { w[FinalNormName] = tensor.New(1, 23) }, `tensor "model.norm.weight": shape [23], want [24]`},
		{"embedding", func(c *Config, _ memory) { c.Vocab++ }, `tensor "model.embed_tokens.weight": shape [37 24], want [38 24]`},
		{"no head", func(_ *Config, w memory) { delete(w, HeadName) }, `tensor "lm_head.weight": missing`},
		{"head NaN", func(_ *Config, w memory) { w[HeadName].Set(36, 23, nan) }, `tensor "lm_head.weight": element [36 23] is NaN`},
		{"bias missing", func(c *Config, _ memory) { c.QKVBias = true }, `tensor "model.layers.0.self_attn.q_proj.bias": missing, want shape [24]`},
		{"bias not foreseen", func(_ *Config, w memory) { w["model.layers.1.self_attn.o_proj.bias"] = randomMatrix(1, 24, 1) }, `tensor "model.layers.1.self_attn.o_proj.bias": not foreseen by config.json`},
		{"norm missing", func(c *Config, _ memory) { c.QKNorm = true }, `tensor "model.layers.0.self_attn.q_norm.weight": missing`},
		{"norm not foreseen", func(_ *Config, w memory) { w["model.layers.0.self_attn.k_norm.weight"] = randomMatrix(1, 6, 1) }, `tensor "model.layers.0.self_attn.k_norm.weight": not foreseen`},
		{"too many layers", func(c *Config, _ memory) { c.Layers = 1 }, `tensor "model.layers.1.input_layernorm.weight": num_hidden_layers is only 1`},
		{"too few layers", func(c *Config, _ memory) { c.Layers = 3 }, `tensor "model.layers.2.input_layernorm.weight": missing`},
		{"invalid config", func(c *Config, _ memory) { c.KVHeads = 3 }, `"num_key_value_heads": 3 does not divide`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := base()
			w := randomWeights(&c, 1)
			tt.change(&c, w)
			_, err := LoadModel(&c, w, 1)
			require.ErrorContains(t, err, tt.want)
		})
	}

	// Without the check of all shapes beforehand LoadBlock finds them itself.
	c := base()
	w := randomWeights(&c, 1)
	w[up] = w[up].T()
	_, err := LoadBlock(&c, w, 1)
	require.ErrorContains(t, err, "shape [24 40], want [40 24]")

	// A bias of zeros has no effect and is let pass.
	w = randomWeights(&c, 1)
	w["model.layers.0.mlp.up_proj.bias"] = tensor.New(1, 40)
	b, err := LoadBlock(&c, w, 0)
	require.NoError(t, err)
	require.Nil(t, b.Up.Bias)
}

// TestOtherWeights: a copy of a block with another weight is another block,
// and the first stays what it was.
func TestOtherWeights(t *testing.T) {
	c := base()
	w := randomWeights(&c, 1)
	b, err := LoadBlock(&c, w, 0)
	require.NoError(t, err)
	r, err := NewRunner(&c, 2)
	require.NoError(t, err)
	x := randomMatrix(20, c.Hidden, 1)
	run := func(b *Block) []float32 {
		y := x.Clone()
		require.NoError(t, r.Forward(b, y, 10, nil))
		return y.Data
	}
	first := run(b)
	for role := range Roles {
		info := c.Linears(0)[role]
		other := *b
		other.Linear(role).Weight = randomMatrix(info.Out, info.In, 9)
		changed := run(&other)
		require.NotEqual(t, first, changed, role)

		w2 := maps.Clone(w)
		w2[info.WeightName()] = other.Linear(role).Weight
		fresh, err := LoadBlock(&c, w2, 0)
		require.NoError(t, err)
		require.Equal(t, run(fresh), changed, role)
		require.Equal(t, first, run(b), role)
	}
}

// TestWorkers: the same bytes for any number of workers and whatever a Runner
// did before.
func TestWorkers(t *testing.T) {
	c := base()
	c.QKVBias, c.Windows = true, []int{40, 0}
	w := randomWeights(&c, 2)
	ids := make([]int32, 6*101)
	for i := range ids {
		ids[i] = int32(i * i % c.Vocab)
	}
	var want []float32
	for _, workers := range []int{1, 2, 3, 8, 0} {
		m, err := LoadModel(&c, w, workers)
		require.NoError(t, err)
		for range 2 {
			x, err := m.Hidden(ids, 101)
			require.NoError(t, err)
			if want == nil {
				want = slices.Clone(x.Data)
			}
			require.Equal(t, want, x.Data, "%d workers", workers)
			_, err = m.Logits(ids[:30])
			require.NoError(t, err)
		}
	}
	// A window is the same whatever surrounds it.
	m, err := LoadModel(&c, w, 2)
	require.NoError(t, err)
	x, err := m.Hidden(ids[2*101:3*101], 101)
	require.NoError(t, err)
	require.Equal(t, want[2*101*c.Hidden:3*101*c.Hidden], x.Data)
}

func TestObserverError(t *testing.T) {
	c := base()
	b, err := LoadBlock(&c, randomWeights(&c, 1), 0)
	require.NoError(t, err)
	r, err := NewRunner(&c, 1)
	require.NoError(t, err)
	stop := errors.New("stop")
	for at := range Inputs {
		var seen []Input
		err = r.Forward(b, randomMatrix(4, c.Hidden, 1), 4, func(in Input, _ *tensor.Matrix) error {
			seen = append(seen, in)
			if in == at {
				return stop
			}
			return nil
		})
		require.ErrorIs(t, err, stop)
		require.Len(t, seen, int(at)+1)
	}
	require.PanicsWithValue(t, "llama: rows are not whole windows", func() { _ = r.Forward(b, tensor.New(5, c.Hidden), 4, nil) })
}

func TestEmbed(t *testing.T) {
	c := base()
	m, err := LoadModel(&c, randomWeights(&c, 1), 1)
	require.NoError(t, err)
	for _, id := range []int32{-1, 37} {
		_, err = m.Logits([]int32{0, id})
		require.ErrorContains(t, err, "at 1: the model's vocabulary has 37")
	}
	_, err = m.Logits(nil)
	require.EqualError(t, err, "no tokens")
}

func TestGreedy(t *testing.T) {
	c := base()
	m, err := LoadModel(&c, randomWeights(&c, 5), 1)
	require.NoError(t, err)
	prompt := []int32{3, 1, 4, 1, 5}
	out, err := m.Greedy(prompt, 12)
	require.NoError(t, err)
	require.Len(t, out, 12)
	all := append(slices.Clone(prompt), out...)
	logits, err := m.Logits(all)
	require.NoError(t, err)
	for i := range out {
		row := logits.Row(len(prompt) + i - 1)
		require.Equal(t, slices.Max(row), row[out[i]], "token %d", i)
	}
	// It ends after the end-of-sequence token.
	c.EOS = []int{99, int(out[4])}
	short, err := m.Greedy(prompt, 12)
	require.NoError(t, err)
	require.Equal(t, out[:slices.Index(out, out[4])+1], short)
	// Of equals the first.
	m.Head.Weight = tensor.New(c.Vocab, c.Hidden)
	zeros, err := m.Greedy(prompt, 2)
	require.NoError(t, err)
	require.Equal(t, []int32{0, 0}, zeros)
	_, err = m.Greedy(nil, 1)
	require.Error(t, err)
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
	c := base()
	r, err := NewRunner(&c, 3)
	require.NoError(t, err)
	p, q := randomMatrix(70, c.Vocab, 1), randomMatrix(70, c.Vocab, 2)
	targets := make([]int32, 70)
	for i := range targets {
		targets[i] = int32(i%(c.Vocab+1)) - 1
	}
	nll, kl := make([]float64, 70), make([]float64, 70)
	nll[0] = 5
	r.NLLs(nll, p, targets)
	r.KLs(kl, p, q)
	for i := range targets {
		if targets[i] < 0 {
			require.Zero(t, nll[i])
		} else {
			require.Equal(t, NLL(p.Row(i), targets[i]), nll[i])
		}
		require.Equal(t, KL(p.Row(i), q.Row(i)), kl[i])
	}
}
