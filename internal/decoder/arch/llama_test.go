package arch

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

func TestLinears(t *testing.T) {
	c := base()
	c.QKVBias = true
	p := model(t, &c).Blocks[1]
	linear := func(path string, stage, out, in int, bias bool) program.LinearInfo {
		return program.LinearInfo{Name: "model.layers.1." + path, Path: path, Stage: stage, Out: out, In: in, Bias: bias, Expert: -1}
	}
	require.Equal(t, []program.LinearInfo{
		linear("self_attn.q_proj", 0, 24, 24, true),
		linear("self_attn.k_proj", 0, 12, 24, true),
		linear("self_attn.v_proj", 0, 12, 24, true),
		linear("self_attn.o_proj", 1, 24, 24, false),
		linear("mlp.gate_proj", 2, 40, 24, false),
		linear("mlp.up_proj", 2, 40, 24, false),
		linear("mlp.down_proj", 3, 24, 40, false),
	}, p.Linears)
	b, err := p.Load(randomWeights(t, &c, 1))
	require.NoError(t, err)
	for i, l := range p.Linears {
		require.Equal(t, l.Out, b.Linear(i).Weight.Rows)
		require.Equal(t, l.Bias, b.Linear(i).Bias != nil)
	}
}

// TestStages: what a block of Llama looks like to those who quantize it.
func TestStages(t *testing.T) {
	c := base()
	p := model(t, &c).Blocks[0]
	require.Len(t, p.Stages, 4)
	for i, want := range []struct {
		width     int
		linears   []int
		residual  bool
		recompute bool
		into      string
		before    int
		channels  int
	}{
		{24, []int{0, 1, 2}, false, true, "input_layernorm", -1, 24},
		{24, []int{3}, true, false, "self_attn.v_proj", 2, 12},
		{24, []int{4, 5}, false, false, "post_attention_layernorm", -1, 24},
		{40, []int{6}, true, true, "mlp.up_proj", 5, 40},
	} {
		s := p.Stages[i]
		require.Equal(t, want.width, s.Width, i)
		require.Equal(t, want.linears, s.Linears, i)
		require.Equal(t, want.residual, s.Residual, i)
		require.Equal(t, want.recompute, s.Recompute, i)
		require.Equal(t, want.into, s.Fold.Into, i)
		require.Equal(t, want.before, s.Fold.Before, i)
		require.Equal(t, want.channels, s.Fold.Channels, i)
		if want.before >= 0 {
			require.Equal(t, i, p.After(want.before))
		}
	}
	require.Equal(t, []int{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 6, 7, 8, 9, 10, 11}, p.Stages[1].Fold.Share)
	require.Equal(t, -1, p.After(0))
}

func TestBadWeights(t *testing.T) {
	const up = "model.layers.1.mlp.up_proj.weight"
	for _, tt := range []struct {
		name   string
		change func(c *decoder.Config, w memory)
		want   string
	}{
		{"transposed", func(_ *decoder.Config, w memory) { w[up] = w[up].T() }, `tensor "model.layers.1.mlp.up_proj.weight": shape [24 40], want [40 24]`},
		{"wrong dimensions", func(_ *decoder.Config, w memory) { w[up] = tensor.New(1, 960) }, `shape [960], want [40 24]`},
		{"missing", func(_ *decoder.Config, w memory) { delete(w, up) }, `tensor "model.layers.1.mlp.up_proj.weight": missing, want shape [40 24]`},
		{"norm too short", func(_ *decoder.Config, w memory) { w[decoder.PlainNames().FinalNorm] = tensor.New(1, 23) }, `tensor "model.norm.weight": shape [23], want [24]`},
		{"embedding", func(c *decoder.Config, _ memory) { c.Vocab++ }, `tensor "model.embed_tokens.weight": shape [37 24], want [38 24]`},
		{"no head", func(_ *decoder.Config, w memory) { delete(w, decoder.PlainNames().Head) }, `tensor "lm_head.weight": missing`},
		{"bias missing", func(c *decoder.Config, _ memory) { c.QKVBias = true }, `tensor "model.layers.0.self_attn.q_proj.bias": missing, want shape [24]`},
		{"bias not foreseen", func(_ *decoder.Config, w memory) { w["model.layers.1.self_attn.o_proj.bias"] = randomMatrix(1, 24, 1) }, `tensor "model.layers.1.self_attn.o_proj.bias": not foreseen by config.json`},
		{"norm missing", func(c *decoder.Config, _ memory) { c.QKNorm = true }, `tensor "model.layers.0.self_attn.q_norm.weight": missing`},
		{"norm not foreseen", func(_ *decoder.Config, w memory) { w["model.layers.0.self_attn.k_norm.weight"] = randomMatrix(1, 6, 1) }, `tensor "model.layers.0.self_attn.k_norm.weight": not foreseen`},
		{"too many layers", func(c *decoder.Config, _ memory) { c.Layers = 1 }, `tensor "model.layers.1.input_layernorm.weight": num_hidden_layers is only 1`},
		{"too few layers", func(c *decoder.Config, _ memory) { c.Layers = 3 }, `tensor "model.layers.2.input_layernorm.weight": missing`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := base()
			w := randomWeights(t, &c, 1)
			tt.change(&c, w)
			_, err := load(model(t, &c), w, 1)
			require.ErrorContains(t, err, tt.want)
		})
	}

	// Without the check of all shapes beforehand Load finds them itself.
	c := base()
	w := randomWeights(t, &c, 1)
	w[up] = w[up].T()
	_, err := model(t, &c).Blocks[1].Load(w)
	require.ErrorContains(t, err, "shape [24 40], want [40 24]")

	// A bias of zeros has no effect and is let pass.
	w = randomWeights(t, &c, 1)
	w["model.layers.0.mlp.up_proj.bias"] = tensor.New(1, 40)
	b, err := model(t, &c).Blocks[0].Load(w)
	require.NoError(t, err)
	require.Nil(t, b.Linear(5).Bias)
}

// TestOtherWeights: a copy of a block with another weight is another block,
// and the first stays what it was.
func TestOtherWeights(t *testing.T) {
	c := base()
	w := randomWeights(t, &c, 1)
	p := model(t, &c).Blocks[0]
	b, err := p.Load(w)
	require.NoError(t, err)
	r := program.NewRunner(2)
	x := randomMatrix(20, c.Hidden, 1)
	run := func(b *program.Block) []float32 {
		y := x.Clone()
		require.NoError(t, r.Forward(b, y, 10, nil))
		return y.Data
	}
	first := run(b)
	for i, info := range p.Linears {
		other := b.Clone()
		other.Linear(i).Weight = randomMatrix(info.Out, info.In, 9)
		changed := run(other)
		require.NotEqual(t, first, changed, info.Path)

		w2 := maps.Clone(w)
		w2[info.WeightName()] = other.Linear(i).Weight
		fresh, err := p.Load(w2)
		require.NoError(t, err)
		require.Equal(t, run(fresh), changed, info.Path)
		require.Equal(t, first, run(b), info.Path)
	}
}

// TestWorkers: the same bytes for any number of workers and whatever a Runner
// did before.
func TestWorkers(t *testing.T) {
	c := base()
	c.QKVBias, c.Windows = true, []int{40, 0}
	w := randomWeights(t, &c, 2)
	ids := make([]int32, 6*101)
	for i := range ids {
		ids[i] = int32(i * i % c.Vocab)
	}
	var want []float32
	for _, workers := range []int{1, 2, 3, 8, 0} {
		m, err := load(model(t, &c), w, workers)
		require.NoError(t, err)
		for range 2 {
			x, err := m.hidden(ids, 101)
			require.NoError(t, err)
			if want == nil {
				want = slices.Clone(x.Data)
			}
			require.Equal(t, want, x.Data, "%d workers", workers)
			_, err = m.logits(ids[:30])
			require.NoError(t, err)
		}
	}
	// A window is the same whatever surrounds it.
	m, err := load(model(t, &c), w, 2)
	require.NoError(t, err)
	x, err := m.hidden(ids[2*101:3*101], 101)
	require.NoError(t, err)
	require.Equal(t, want[2*101*c.Hidden:3*101*c.Hidden], x.Data)
}

func TestObserverError(t *testing.T) {
	c := base()
	b, err := model(t, &c).Blocks[0].Load(randomWeights(t, &c, 1))
	require.NoError(t, err)
	r := program.NewRunner(1)
	stop := errors.New("stop")
	for at := range b.Stages {
		var seen []int
		err = r.Forward(b, randomMatrix(4, c.Hidden, 1), 4, func(stage int, _ *program.Frame) error {
			seen = append(seen, stage)
			if stage == at {
				return stop
			}
			return nil
		})
		require.ErrorIs(t, err, stop)
		require.Len(t, seen, at+1)
	}
	require.PanicsWithValue(t, "program: rows are not whole windows", func() { _ = r.Forward(b, tensor.New(5, c.Hidden), 4, nil) })
}

func TestEmbed(t *testing.T) {
	c := base()
	m, err := load(model(t, &c), randomWeights(t, &c, 1), 1)
	require.NoError(t, err)
	for _, id := range []int32{-1, 37} {
		_, err = m.logits([]int32{0, id})
		require.ErrorContains(t, err, "at 1: the model's vocabulary has 37")
	}
}
