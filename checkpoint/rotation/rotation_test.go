package rotation

import (
	"maps"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// logits are those of some sequences.
func logits(t *testing.T, src *checkpoint.Model) *tensor.Matrix {
	t.Helper()
	m, err := arch.Open(src)
	require.NoError(t, err)
	e, err := m.LoadEmbedding(src)
	require.NoError(t, err)
	const n = 12
	x := tensor.New(2*n, m.Hidden)
	ids := make([]int32, n)
	for w := range 2 {
		for i := range ids {
			ids[i] = int32((7*i*i + 5*w + 3) % m.Vocab)
		}
		require.NoError(t, e.Embed(x.View(w*n, (w+1)*n, 0, m.Hidden), ids))
	}
	r := program.NewRunner(2)
	for _, p := range m.Blocks {
		b, err := p.Load(src)
		require.NoError(t, err)
		require.NoError(t, r.Forward(b, x, n, nil))
	}
	h, err := m.LoadHead(src, e)
	require.NoError(t, err)
	out := tensor.New(x.Rows, m.Vocab)
	h.Logits(r, out, x)
	return out
}

// difference is the largest, in standard deviations of what is wanted.
func difference(want, got []float32) float64 {
	var sum, square, worst float64
	for i, v := range want {
		sum += float64(v)
		square += float64(v) * float64(v)
		worst = max(worst, math.Abs(float64(v)-float64(got[i])))
	}
	n := float64(len(want))
	return worst / math.Sqrt(square/n-sum*sum/n/n)
}

// refused are the tiny models that rotations do not fold into, and why.
var refused = map[string]string{
	"bloom": "embedding is normalized", "opt-postnorm-proj": "embedding is projected",
	"exaone4": "added to the residual stream", "gemma2": "added to the residual stream", "gemma3-conditional": "added to the residual stream",
	"gemma3-text": "added to the residual stream", "glm4": "added to the residual stream", "olmo2": "added to the residual stream", "olmo3": "added to the residual stream",
	"minimax":              "becomes the residual stream",
	"mistral3-conditional": `tensor "multi_modal_projector.linear_1.weight" is none of its blocks`,
	"qwen3_5-conditional":  `tensor "model.visual.blocks.0.attn.proj.weight" is none of its blocks`,
	"opt-gated-mlp":        `operation "headGate" on the residual stream`,
}

var layerNorm = []string{
	"cohere", "cohere2", "falcon-mq", "falcon-new", "falcon-rw-alibi", "gpt-bigcode", "gpt-neox", "gpt-neox-sequential", "gpt2", "gptj", "mpt", "nemotron", "olmo",
	"opt", "opt-clipped", "opt-clipped-alpha", "opt-gated", "opt-gated-all", "opt-gated-head", "opt-gated-mlp2", "phi", "phimoe", "stablelm", "stablelm-parallel", "starcoder2",
}

// TestArchitectures: every tiny model predicts the same rotated, or is refused for a reason.
func TestArchitectures(t *testing.T) {
	why := maps.Clone(refused)
	for _, name := range layerNorm {
		why[name] = "is a LayerNorm, which subtracts the mean"
	}
	files, err := filepath.Glob("../../testdata/architectures/*/config.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		dir := filepath.Dir(file)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m, err := checkpoint.Open(dir)
			require.NoError(t, err)
			defer m.Close()
			for _, kind := range []Kind{Hadamard, KLT} {
				v, err := Of(t.Context(), m, kind, Options{Seed: 1, DType: safetensors.F32, Workers: 2, Windows: [][]int32{{1, 5, 9, 2, 7, 3, 3, 8}}})
				if text := why[filepath.Base(dir)]; text != "" {
					require.ErrorIs(t, err, ErrUnsupported)
					require.ErrorContains(t, err, text)
					continue
				}
				require.NoError(t, err)
				want := logits(t, m).Data
				require.Less(t, difference(want, logits(t, v).Data), 5e-5)
				changed(t, m, v)
			}
		})
	}
}

// changed holds a rotated model to having other weights in its blocks.
func changed(t *testing.T, m, v *checkpoint.Model) {
	t.Helper()
	d, err := arch.Open(m)
	require.NoError(t, err)
	other := 0
	for i := range d.Blocks {
		before, err := d.Blocks[i].Load(m)
		require.NoError(t, err)
		after, err := d.Blocks[i].Load(v)
		require.NoError(t, err)
		for l := range d.Blocks[i].Linears {
			if difference(before.Linear(l).Weight.Data, after.Linear(l).Weight.Data) > 0.1 {
				other++
			}
		}
	}
	require.GreaterOrEqual(t, other, 2*len(d.Blocks))
}

// TestKLTTwin: the second moments of what the readers see, without the gain, are those of a
// float64 twin in the basis of KLT, and there every channel has the same mean square
// (MambaQuant, section 4).
func TestKLTTwin(t *testing.T) {
	m, err := checkpoint.Open("../../testdata/architectures/qwen2")
	require.NoError(t, err)
	defer m.Close()
	windows := [][]int32{make([]int32, 24), make([]int32, 24)}
	for i := range 48 {
		windows[i/24][i%24] = int32(i * i % 37)
	}
	moments := func(src *checkpoint.Model, gains bool) [][]float64 {
		d, err := arch.Open(src)
		require.NoError(t, err)
		c := make([][]float64, d.Hidden)
		for i := range c {
			c[i] = make([]float64, d.Hidden)
		}
		r := program.NewRunner(1)
		e, err := d.LoadEmbedding(src)
		require.NoError(t, err)
		for _, ids := range windows {
			x := tensor.New(len(ids), d.Hidden)
			require.NoError(t, e.Embed(x, ids))
			for _, p := range d.Blocks {
				b, err := p.Load(src)
				require.NoError(t, err)
				require.NoError(t, r.Forward(b, x, len(ids), func(stage int, f *program.Frame) error {
					s := &b.Stages[stage]
					if s.Fold == nil || s.Fold.Before >= 0 {
						return nil
					}
					g := slices.Repeat([]float32{1}, d.Hidden)
					if gains {
						_, g = b.Vector(s.Fold.Vectors()[0])
					}
					in := f.Input(s)
					for k := range in.Rows {
						for i := range c {
							for j := range c {
								c[i][j] += float64(in.At(k, i)) / float64(g[i]) * float64(in.At(k, j)) / float64(g[j])
							}
						}
					}
					return nil
				}))
			}
		}
		return c
	}
	c := moments(m, true)
	trace := 0.0
	for i := range c {
		trace += c[i][i]
	}
	mean := trace / float64(len(c))
	spread := func(c [][]float64) (worst float64) {
		for i := range c {
			worst = max(worst, math.Abs(c[i][i]/mean-1))
		}
		return worst
	}
	require.Greater(t, spread(c), 0.1, "unrotated")
	for kind, most := range map[Kind]float64{Hadamard: 10, KLT: 1e-4} {
		v, err := Of(t.Context(), m, kind, Options{DType: safetensors.F32, Windows: windows})
		require.NoError(t, err)
		got := spread(moments(v, false))
		t.Logf("%s: a channel's mean square is off by %.2g", kind, got)
		require.Less(t, got, most)
		if kind == Hadamard {
			require.Greater(t, got, 0.01)
		}
	}
}

// TestChoose: the losses are those of models that are rounded for themselves.
func TestChoose(t *testing.T) {
	m, err := checkpoint.Open("../../testdata/architectures/mamba2")
	require.NoError(t, err)
	defer m.Close()
	windows := [][]int32{{1, 5, 9, 2, 7, 3, 3, 8}, {4, 4, 1, 0, 11, 6, 2, 19}}
	o := Options{Windows: windows[:1]}
	best, all, err := Choose(t.Context(), m, []Kind{None, Hadamard, KLT}, quant.Scheme{Bits: 3, GroupSize: 16}, windows[1:], o)
	require.NoError(t, err)
	require.Len(t, all, 3)
	for _, trial := range all {
		require.Positive(t, trial.KL)
		if trial.Kind == best {
			for _, other := range all {
				require.LessOrEqual(t, trial.KL, other.KL)
			}
		}
	}
	_, fine, err := Choose(t.Context(), m, []Kind{None, Hadamard, KLT}, quant.Scheme{Bits: 8, GroupSize: 16}, windows[1:], o)
	require.NoError(t, err)
	for i := range fine {
		require.Less(t, fine[i].KL, all[i].KL/50)
	}
	_, err = Of(t.Context(), m, KLT, Options{})
	require.ErrorIs(t, err, ErrText)
}

// TestWrite: what is written predicts the same, and a tied head with a gain before it is a
// tensor of its own.
func TestWrite(t *testing.T) {
	m, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	defer m.Close()
	o := WriteOptions{Output: filepath.Join(t.TempDir(), "out"), Kinds: []Kind{Hadamard}, Options: Options{DType: safetensors.F32}}
	kind, trials, err := Write(t.Context(), m, o)
	require.NoError(t, err)
	require.Equal(t, Hadamard, kind)
	require.Empty(t, trials)
	w, err := checkpoint.Open(o.Output)
	require.NoError(t, err)
	defer w.Close()
	require.False(t, m.Has("lm_head.weight"))
	require.True(t, w.Has("lm_head.weight"))
	require.Contains(t, string(w.Config()), `"tie_word_embeddings": false`)
	require.Contains(t, string(w.Config()), `"torch_dtype": "float32"`)
	require.Less(t, difference(logits(t, m).Data, logits(t, w).Data), 5e-5)
	gain, err := w.Vector("model.layers.1.input_layernorm.weight")
	require.NoError(t, err)
	require.Equal(t, slices.Repeat([]float32{1}, 256), gain)

	_, _, err = Write(t.Context(), m, o)
	require.ErrorIs(t, err, checkpoint.ErrExists)
	o.Output, o.Kinds = filepath.Join(t.TempDir(), "out"), []Kind{None, KLT}
	_, _, err = Write(t.Context(), m, o)
	require.ErrorIs(t, err, ErrText)
}

// plainNorm has ones for the gain of the final norm.
type plainNorm struct{ layout.Source }

func (s plainNorm) ReadAt(name string, p []byte, off int64) error {
	if name != "model.norm.weight" {
		return s.Source.ReadAt(name, p, off)
	}
	for i := range p { // bfloat16, little-endian
		p[i] = []byte{0x80, 0x3f}[(off+int64(i))%2]
	}
	return nil
}

// TestTiedStays: a tied head that is read through no gain stays the embedding.
func TestTiedStays(t *testing.T) {
	m, err := checkpoint.Open("../../testdata/tinyllama-2m")
	require.NoError(t, err)
	defer m.Close()
	plain, err := m.Replaced(m.Config(), plainNorm{m.Source()})
	require.NoError(t, err)
	v, err := Of(t.Context(), plain, Hadamard, Options{DType: safetensors.F32})
	require.NoError(t, err)
	require.False(t, v.Has("lm_head.weight"))
	require.Contains(t, string(v.Config()), `"tie_word_embeddings": true`)
	want := logits(t, plain).Data
	require.Less(t, difference(want, logits(t, v).Data), 5e-5)
	require.Greater(t, difference(want, logits(t, m).Data), 0.1)
}
