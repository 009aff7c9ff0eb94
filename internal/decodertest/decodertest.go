// Package decodertest runs whole models in memory and makes up small ones, for
// tests.
package decodertest

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Model is a whole model in memory.
type Model struct {
	*decoder.Model
	Runner    *decoder.Runner
	Embedding *decoder.Embedding
	Blocks    []*decoder.Block
	Head      *decoder.Head
}

// Load reads the model of a config.json.
func Load(t require.TestingT, config []byte, w decoder.Weights) *Model {
	m, err := decoder.ParseConfig(config)
	require.NoError(t, err)
	require.NoError(t, m.Fit(w))
	require.NoError(t, m.CheckShapes(w))
	l := &Model{Model: m, Runner: decoder.NewRunner(0)}
	l.Embedding, err = m.LoadEmbedding(w)
	require.NoError(t, err)
	for _, p := range m.Blocks {
		b, err := p.Load(w)
		require.NoError(t, err)
		l.Blocks = append(l.Blocks, b)
	}
	l.Head, err = m.LoadHead(w, l.Embedding)
	require.NoError(t, err)
	return l
}

// Hidden returns the residual stream after all blocks for whole windows of ids.
func (l *Model) Hidden(t require.TestingT, ids []int32, seqLen int) *tensor.Matrix {
	x := tensor.New(len(ids), l.Model.Hidden)
	require.NoError(t, l.Embedding.Embed(x, ids))
	for _, b := range l.Blocks {
		require.NoError(t, l.Runner.Forward(b, x, seqLen, nil))
	}
	return x
}

// Logits returns the logits [len(ids), vocab] of one sequence.
func (l *Model) Logits(t require.TestingT, ids []int32) *tensor.Matrix {
	x := l.Hidden(t, ids, len(ids))
	logits := tensor.New(len(ids), l.Vocab)
	l.Runner.Logits(l.Head, logits, x)
	return logits
}

// Greedy continues ids by up to n tokens, each the likeliest (of equals the
// first). It ends early after a token of Config.EOS, which is included.
func (l *Model) Greedy(t require.TestingT, ids []int32, n int) []int32 {
	all := append([]int32(nil), ids...)
	for range n {
		logits := l.Logits(t, all).Row(len(all) - 1)
		best := 0
		for i, v := range logits {
			if v > logits[best] {
				best = i
			}
		}
		all = append(all, int32(best))
		for _, eos := range l.EOS {
			if best == eos {
				return all[len(ids):]
			}
		}
	}
	return all[len(ids):]
}

// WriteRandom writes random weights of a type for the config.json that lies in
// dir: vectors around 1, matrices around 0, deviations dev. extra are further
// vectors of 8.
func WriteRandom(t testing.TB, dir string, dtype safetensors.DType, dev float64, extra ...string) {
	t.Helper()
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	m, err := decoder.ParseConfig(config)
	require.NoError(t, err)
	var plan []safetensors.TensorInfo
	for _, s := range m.Tensors() {
		plan = append(plan, safetensors.TensorInfo{Name: s.Name, DType: dtype, Shape: s.Shape})
	}
	for _, name := range extra {
		plan = append(plan, safetensors.TensorInfo{Name: name, DType: dtype, Shape: []int{8}})
	}
	w, err := safetensors.NewWriter(dir, plan, safetensors.Options{})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, p := range plan {
		v := make([]float32, p.Elements())
		for i := range v {
			v[i] = float32(rng.NormFloat64() * dev)
			if len(p.Shape) == 1 {
				v[i]++
			}
		}
		require.NoError(t, w.WriteFloat32(p.Name, v))
	}
	require.NoError(t, w.Close())
}
