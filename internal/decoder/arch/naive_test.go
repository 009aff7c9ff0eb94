package arch

import (
	"fmt"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/tensor"
)

// memory gives weights from memory.
type memory map[string]*tensor.Matrix // vectors have one row

func (w memory) Matrix(name string) (*tensor.Matrix, error) { return w[name], nil }
func (w memory) Vector(name string) ([]float32, error)      { return w[name].Data, nil }
func (w memory) Rows(name string, i0, i1 int, _ []float32) ([]float32, error) {
	m := w[name]
	return m.Data[i0*m.Cols : i1*m.Cols], nil
}

func (w memory) Has(name string) bool { return w[name] != nil }

func (w memory) Shape(name string) ([]int, bool) {
	m, ok := w[name]
	switch {
	case !ok:
		return nil, false
	case m.Rows == 1:
		return []int{m.Cols}, true
	}
	return []int{m.Rows, m.Cols}, true
}

// randomWeights makes up all tensors of a model, of sizes that keep every
// part of it at work: scores that matter, norms that differ from 1.
func randomWeights(t require.TestingT, c *decoder.Config, seed uint64) memory {
	m := model(t, c)
	rnd := rand.New(rand.NewPCG(seed, 1))
	w := memory{}
	add := func(name string, rows, cols int, mean, dev float64) {
		m := tensor.New(rows, cols)
		for i := range m.Data {
			m.Data[i] = float32(mean + dev*rnd.NormFloat64())
		}
		w[name] = m
	}
	add(c.EmbeddingName(), c.Vocab, c.Hidden, 0, 1)
	add(c.FinalNormName(), 1, c.Hidden, 1, 0.3)
	if !c.Tied {
		add(c.HeadName(), c.Vocab, c.Hidden, 0, 0.5)
	}
	for i := range c.Layers {
		p := c.BlockPrefix(i)
		add(p+"input_layernorm.weight", 1, c.Hidden, 1, 0.3)
		add(p+"post_attention_layernorm.weight", 1, c.Hidden, 1, 0.3)
		if c.QKNorm {
			add(p+"self_attn.q_norm.weight", 1, c.HeadDim, 1.5, 0.3)
			add(p+"self_attn.k_norm.weight", 1, c.HeadDim, 1.5, 0.3)
		}
		for _, l := range m.Blocks[i].Linears {
			add(l.WeightName(), l.Out, l.In, 0, 1.2/math.Sqrt(float64(l.In)))
			if l.Bias {
				add(l.BiasName(), 1, l.Out, 0, 0.5)
			}
		}
	}
	return w
}

// naive is the decoder in float64, written from the definitions: one token,
// one head, one key after the other.
type naive struct {
	c *decoder.Config
	w memory
}

func (n naive) matVec(name string, x []float64) []float64 {
	m := n.w[name+".weight"]
	y := make([]float64, m.Rows)
	for i := range y {
		for j, v := range x {
			y[i] += float64(m.At(i, j)) * v
		}
	}
	if b := n.w[name+".bias"]; b != nil {
		for i := range y {
			y[i] += float64(b.At(0, i))
		}
	}
	return y
}

func (n naive) norm(name string, x []float64) []float64 {
	g := n.w[name+".weight"]
	y := make([]float64, len(x))
	var mean float64
	for _, v := range x {
		mean += v * v / float64(len(x))
	}
	for i, v := range x {
		y[i] = v / math.Sqrt(mean+n.c.NormEps) * float64(g.At(0, i))
	}
	return y
}

// angle is the rotation of pair j at a position, with rope scaling written
// by wavelength, as in transformers' modeling_rope_utils.
func (n naive) angle(pos, j int) float64 {
	inv := 1 / math.Pow(n.c.Rope.Theta, float64(2*j)/float64(n.c.HeadDim))
	switch s := n.c.Rope.Scaling; s.Type {
	case "linear":
		return float64(pos) / s.Factor * inv
	case "llama3":
		wave := 2 * math.Pi / inv
		old := float64(s.OriginalMaxPosition)
		switch low, high := old/s.LowFreqFactor, old/s.HighFreqFactor; {
		case wave > low:
			inv /= s.Factor
		case wave >= high:
			smooth := (old/wave - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
			inv = (1-smooth)*inv/s.Factor + smooth*inv
		}
	}
	return float64(pos) * inv
}

func (n naive) rotate(x []float64, pos int) []float64 {
	y := make([]float64, len(x))
	half := len(x) / 2
	for j := range half {
		z := complex(x[j], x[j+half]) * cmplx.Rect(1, n.angle(pos, j))
		y[j], y[j+half] = real(z), imag(z)
	}
	return y
}

// block returns the residual stream after a block and the four inputs.
func (n naive) block(layer int, x [][]float64) (out [][]float64, inputs [4][][]float64) {
	c, p := n.c, n.c.BlockPrefix(layer)
	d := c.HeadDim
	var q, k, v [][]float64
	for pos, row := range x {
		h := n.norm(p+"input_layernorm", row)
		inputs[0] = append(inputs[0], h)
		heads := func(name, norm string, rotate bool) []float64 {
			y := n.matVec(p+"self_attn."+name, h)
			for i := 0; i < len(y); i += d {
				head := y[i : i+d]
				if c.QKNorm && norm != "" {
					head = n.norm(p+"self_attn."+norm, head)
				}
				if rotate {
					head = n.rotate(head, pos)
				}
				copy(y[i:], head)
			}
			return y
		}
		q = append(q, heads("q_proj", "q_norm", true))
		k = append(k, heads("k_proj", "k_norm", true))
		v = append(v, heads("v_proj", "", false))
	}
	for i, row := range x {
		a := make([]float64, c.Heads*d)
		for h := range c.Heads {
			g := h * c.KVHeads / c.Heads
			var weight []float64
			var sum float64
			for j := range i + 1 {
				var s float64
				for e := range d {
					s += q[i][h*d+e] * k[j][g*d+e]
				}
				e := math.Exp(s / math.Sqrt(float64(d)))
				if w := c.Window(layer); w > 0 && j <= i-w {
					e = 0
				}
				weight = append(weight, e)
				sum += e
			}
			for j, e := range weight {
				for t := range d {
					a[h*d+t] += e / sum * v[j][g*d+t]
				}
			}
		}
		inputs[1] = append(inputs[1], a)
		y := append([]float64(nil), row...)
		for j, e := range n.matVec(p+"self_attn.o_proj", a) {
			y[j] += e
		}
		h := n.norm(p+"post_attention_layernorm", y)
		inputs[2] = append(inputs[2], h)
		gate, up := n.matVec(p+"mlp.gate_proj", h), n.matVec(p+"mlp.up_proj", h)
		for j, e := range gate {
			gate[j] = e / (1 + math.Exp(-e)) * up[j]
		}
		inputs[3] = append(inputs[3], gate)
		for j, e := range n.matVec(p+"mlp.down_proj", gate) {
			y[j] += e
		}
		out = append(out, y)
	}
	return out, inputs
}

func (n naive) logits(ids []int32) [][]float64 {
	var x [][]float64
	for _, id := range ids {
		row := make([]float64, n.c.Hidden)
		for j := range row {
			row[j] = float64(n.w[n.c.EmbeddingName()].At(int(id), j))
		}
		x = append(x, row)
	}
	for i := range n.c.Layers {
		x, _ = n.block(i, x)
	}
	head := n
	if n.c.Tied {
		head.w = memory{"lm_head.weight": n.w[n.c.EmbeddingName()]}
	}
	for i, row := range x {
		x[i] = head.matVec("lm_head", n.norm("model.norm", row))
	}
	return x
}

// requireClose compares with an error allowed relative to the largest value.
func requireClose(t require.TestingT, want [][]float64, got *tensor.Matrix, tolerance float64, what string) {
	require.Equal(t, len(want), got.Rows)
	var largest float64
	for _, row := range want {
		for _, v := range row {
			largest = max(largest, math.Abs(v))
		}
	}
	for i, row := range want {
		require.Len(t, row, got.Cols)
		for j, v := range row {
			if d := math.Abs(v - float64(got.At(i, j))); !(d <= tolerance*largest) {
				require.Failf(t, "differs", "%s [%d %d]: %g, want %g (largest %g)", what, i, j, got.At(i, j), v, largest)
			}
		}
	}
}

func base() decoder.Config {
	return decoder.Config{
		ModelType: "llama", Hidden: 24, Intermediate: 40, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 6,
		Vocab: 37, NormEps: 1e-5, Rope: &program.Rope{Theta: 10000}, BOS: -1, Names: decoder.PlainNames(),
	}
}

// model puts together a model of Llama's blocks.
func model(t require.TestingT, c *decoder.Config) *decoder.Model {
	m := &decoder.Model{Config: *c}
	if rope := *c.Rope; rope.Dim == 0 {
		rope.Dim = c.HeadDim
		m.Rope = &rope
	}
	require.NoError(t, build(m, spec.PlainBlock(program.SiLU)))
	return m
}

// whole is a model in memory.
type whole struct {
	*decoder.Model
	runner    *program.Runner
	embedding *decoder.Embedding
	blocks    []*program.Block
	head      *decoder.Head
}

func load(m *decoder.Model, w program.Weights, workers int) (*whole, error) {
	l := &whole{Model: m, runner: program.NewRunner(workers)}
	if err := m.CheckShapes(w); err != nil {
		return nil, err
	}
	var err error
	if l.embedding, err = m.LoadEmbedding(w); err != nil {
		return nil, err
	}
	for _, p := range m.Blocks {
		b, err := p.Load(w)
		if err != nil {
			return nil, err
		}
		l.blocks = append(l.blocks, b)
	}
	l.head, err = m.LoadHead(w, l.embedding)
	return l, err
}

// hidden is the residual stream after all blocks for whole windows of ids.
func (l *whole) hidden(ids []int32, seqLen int) (*tensor.Matrix, error) {
	x := tensor.New(len(ids), l.Hidden)
	if err := l.embedding.Embed(x, ids); err != nil {
		return nil, err
	}
	for _, b := range l.blocks {
		if err := l.runner.Forward(b, x, seqLen, nil); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func (l *whole) logits(ids []int32) (*tensor.Matrix, error) {
	x, err := l.hidden(ids, len(ids))
	if err != nil {
		return nil, err
	}
	logits := tensor.New(len(ids), l.Vocab)
	l.head.Logits(l.runner, logits, x)
	return logits, nil
}

var llama3Scaling = program.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalMaxPosition: 64}

func TestAgainstNaive(t *testing.T) {
	for _, tt := range []struct {
		name   string
		tokens int
		change func(c *decoder.Config)
	}{
		{"plain", 33, func(c *decoder.Config) {}},
		{"one token", 1, func(c *decoder.Config) {}},
		{"multi-head", 17, func(c *decoder.Config) { c.KVHeads = 4 }},
		{"multi-query, head_dim of its own", 30, func(c *decoder.Config) { c.KVHeads, c.Heads, c.HeadDim = 1, 6, 10 }},
		{"many heads on one", 75, func(c *decoder.Config) { c.KVHeads, c.Heads, c.HeadDim = 1, 32, 2 }},
		{"tied", 9, func(c *decoder.Config) { c.Tied = true }},
		{"biases everywhere", 21, func(c *decoder.Config) { c.QKVBias, c.OBias, c.MLPBias = true, true, true }},
		{"qwen2", 21, func(c *decoder.Config) { c.ModelType, c.QKVBias = "qwen2", true }},
		{"qwen3", 21, func(c *decoder.Config) { c.ModelType, c.QKNorm = "qwen3", true }},
		{"linear scaling", 40, func(c *decoder.Config) { c.Rope.Scaling = program.RopeScaling{Type: "linear", Factor: 4} }},
		{"llama3 scaling", 90, func(c *decoder.Config) { c.Rope, c.HeadDim = &program.Rope{Theta: 500, Scaling: llama3Scaling}, 16 }},
		{"sliding window", 300, func(c *decoder.Config) { c.Windows = []int{5, 270} }},
		{"window of one", 20, func(c *decoder.Config) { c.Windows = []int{1, 0} }},
		{"window wider than the text", 20, func(c *decoder.Config) { c.Windows = []int{20, 4096} }},
		{"several key tiles", 600, func(c *decoder.Config) { c.Layers = 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := base()
			tt.change(&c)
			compare(t, &c, tt.tokens, 7, 2, 2e-5)
		})
	}
}

// compare runs a random model of configuration c and its naive twin.
func compare(t require.TestingT, c *decoder.Config, tokens int, seed uint64, workers int, tolerance float64) {
	w := randomWeights(t, c, seed)
	m, err := load(model(t, c), w, workers)
	require.NoError(t, err)
	rnd := rand.New(rand.NewPCG(seed, 2))
	ids := make([]int32, tokens)
	for i := range ids {
		ids[i] = rnd.Int32N(int32(c.Vocab))
	}
	twin := naive{&m.Config, w}
	got, err := m.logits(ids)
	require.NoError(t, err)
	requireClose(t, twin.logits(ids), got, tolerance, "logits")
}

// randomConfig is one of Llama's kind.
func randomConfig(t *rapid.T) *decoder.Config {
	c := base()
	c.KVHeads = rapid.IntRange(1, 3).Draw(t, "kv heads")
	c.Heads = c.KVHeads * rapid.IntRange(1, 5).Draw(t, "group")
	c.HeadDim = 2 * rapid.IntRange(2, 9).Draw(t, "head dim")
	c.Hidden = rapid.IntRange(8, 40).Draw(t, "hidden")
	c.Intermediate = rapid.IntRange(2, 50).Draw(t, "intermediate")
	c.Layers = rapid.IntRange(1, 2).Draw(t, "layers")
	c.QKVBias = rapid.Bool().Draw(t, "qkv bias")
	c.OBias = rapid.Bool().Draw(t, "o bias")
	c.MLPBias = rapid.Bool().Draw(t, "mlp bias")
	c.QKNorm = rapid.Bool().Draw(t, "qk norm")
	c.Tied = rapid.Bool().Draw(t, "tied")
	c.Rope = &program.Rope{Theta: rapid.Float64Range(10, 1e6).Draw(t, "theta")}
	c.Rope.Scaling = rapid.SampledFrom([]program.RopeScaling{{}, {Type: "linear", Factor: 2.5}, llama3Scaling}).Draw(t, "rope")
	for range c.Layers {
		c.Windows = append(c.Windows, rapid.SampledFrom([]int{0, 1, 2, 7, 30}).Draw(t, "window"))
	}
	return &c
}

func TestAgainstNaiveRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := randomConfig(t)
		// Norms of a few elements can magnify rounding, so more is allowed here.
		compare(t, c, rapid.IntRange(1, 70).Draw(t, "tokens"), rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 4).Draw(t, "workers"), 3e-4)
	})
}

// TestForwardInputs checks what the observer is shown, window by window, and
// that the stages one by one come to the same bytes.
func TestForwardInputs(t *testing.T) {
	const seqLen, windows = 700, 5 // more rows than go through at a time
	c := base()
	c.Layers, c.Hidden, c.HeadDim, c.Intermediate = 1, 8, 4, 12
	c.QKVBias, c.Windows = true, []int{9}
	w := randomWeights(t, &c, 3)
	m := model(t, &c)
	b, err := m.Blocks[0].Load(w)
	require.NoError(t, err)
	r := program.NewRunner(2)
	x0 := randomMatrix(seqLen*windows, c.Hidden, 4)

	stages := b.Stages
	require.Len(t, stages, 4)
	seen, rows := make([]*tensor.Matrix, 4), make([]int, 4)
	for i := range seen {
		seen[i] = tensor.New(x0.Rows, stages[i].Width)
	}
	x := x0.Clone()
	for r0 := 0; r0 < x.Rows; r0 += program.Batch(seqLen) {
		require.NoError(t, r.Forward(b, x.View(r0, min(r0+program.Batch(seqLen), x.Rows), 0, x.Cols), seqLen, func(stage int, f *program.Frame) error {
			m := f.Input(&stages[stage])
			require.Zero(t, m.Rows%seqLen)
			seen[stage].View(rows[stage], rows[stage]+m.Rows, 0, m.Cols).CopyFrom(m)
			rows[stage] += m.Rows
			return nil
		}))
	}
	require.Equal(t, []int{x0.Rows, x0.Rows, x0.Rows, x0.Rows}, rows)

	for wd := range windows {
		from, to := wd*seqLen, (wd+1)*seqLen
		var in [][]float64
		for i := from; i < to; i++ {
			var row []float64
			for _, v := range x0.Row(i) {
				row = append(row, float64(v))
			}
			in = append(in, row)
		}
		out, inputs := naive{&m.Config, w}.block(0, in)
		requireClose(t, out, x.View(from, to, 0, x.Cols), 1e-5, fmt.Sprintf("window %d", wd))
		for i := range inputs {
			requireClose(t, inputs[i], seen[i].View(from, to, 0, stages[i].Width), 1e-5, fmt.Sprintf("window %d, stage %d", wd, i))
		}
	}

	// Stage by stage, as calibration goes, it is the same.
	y := x0.Clone()
	f := b.NewFrame(y, seqLen)
	for i := range stages {
		at := r.ToStage(b, f, i)
		require.Equal(t, seen[i].Data, at.Input(&stages[i]).Data, "stage %d", i)
		kept := r.Keep(at, i)
		effect := r.Effect(b, at, i)
		requireClose(t, toFloat64(effect), r.EffectAlone(b, kept, i), 1e-5, "effect")
		if at != f {
			r.Done(at)
		}
	}
	r.Finish(b, f)
	require.Equal(t, x.Data, y.Data)
}

func toFloat64(m *tensor.Matrix) [][]float64 {
	out := make([][]float64, m.Rows)
	for i := range out {
		for _, v := range m.Row(i) {
			out[i] = append(out[i], float64(v))
		}
	}
	return out
}

func randomMatrix(rows, cols int, seed uint64) *tensor.Matrix {
	rnd := rand.New(rand.NewPCG(seed, 5))
	m := tensor.New(rows, cols)
	for i := range m.Data {
		m.Data[i] = float32(rnd.NormFloat64())
	}
	return m
}

// TestBF16: rounded products come close, and are the same for any number of
// workers. Weights and activations have 8 significant bits.
func TestBF16(t *testing.T) {
	c := base()
	c.Layers, c.Hidden, c.HeadDim, c.Intermediate = 1, 64, 16, 160
	b, err := model(t, &c).Blocks[0].Load(randomWeights(t, &c, 7))
	require.NoError(t, err)
	x := randomMatrix(90, c.Hidden, 8)
	run := func(half bool, workers int) *tensor.Matrix {
		r := program.NewRunner(workers)
		r.BF16 = half
		y := x.Clone()
		require.NoError(t, r.Forward(b, y, 30, nil))
		return y
	}
	exact, half := run(false, 1), run(true, 1)
	require.Equal(t, half.Data, run(true, 3).Data)
	if !program.HasBF16() {
		require.Equal(t, exact.Data, half.Data)
		return
	}
	require.NotEqual(t, exact.Data, half.Data)
	var diff, size float64
	for i, v := range exact.Data {
		d := float64(v - half.Data[i])
		diff += d * d
		d = float64(v - x.Data[i])
		size += d * d
	}
	require.Less(t, math.Sqrt(diff/size), 0.01, "of what the block adds")
}
