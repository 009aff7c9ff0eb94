package ggufmodel_test

import (
	"encoding/binary"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
)

// own is the scheme of a type that is a grid itself.
func own(t gguf.Type) quant.Scheme {
	g, _ := kquant.Of(t)
	return g.Scheme()
}

// Types of few levels are weights on uniform grids or their own, exactly, and dense
// where a block does not lie on them.
func TestGGUFLevels(t *testing.T) {
	const tensor, name = "blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj" // [96 64]
	half := func(b []byte) { binary.LittleEndian.PutUint16(b, 0x3800) }          // 0.5
	for _, c := range []struct {
		typ    gguf.Type
		in     int
		scheme quant.Scheme
		fill   func(block []byte) // makes it valid
		off    func(block []byte) // moves it off the grid, nil if nothing can
	}{
		{gguf.Q1_0, 128, quant.Scheme{Bits: 2, GroupSize: 128, Symmetric: true}, half, nil},
		{gguf.Q2_0, 64, quant.Scheme{Bits: 2, GroupSize: 64}, half, nil},
		{gguf.TQ1_0, 256, quant.Scheme{Bits: 2, GroupSize: 256, Symmetric: true}, func(b []byte) { half(b[52:]) }, nil},
		{gguf.TQ2_0, 256, quant.Scheme{Bits: 2, GroupSize: 256, Symmetric: true}, func(b []byte) {
			for i := range b {
				b[i] &= b[i] >> 1 & 0x55 // no code is 3
			}
			half(b[64:])
		}, func(b []byte) { b[0] = 3 }},
		{gguf.MXFP4, 64, own(gguf.MXFP4), func(b []byte) { b[0] = b[1] / 2 }, nil},
		{gguf.NVFP4, 64, own(gguf.NVFP4), func(b []byte) { copy(b, []byte{0x30, 0, 0x7f, 0x07}) }, nil},
	} {
		t.Run(c.typ.String(), func(t *testing.T) {
			config := map[string]any{"hidden_size": c.in, "intermediate_size": 96}
			path := writeGGUFModel(t, openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", config))), ggufmodel.Format{}, nil)
			blocks := make([]byte, c.typ.RowBytes(96*c.in))
			for i := range blocks {
				blocks[i] = byte(i * 89 >> 3)
			}
			n := c.typ.BlockBytes()
			for at := 0; at < len(blocks); at += n {
				c.fill(blocks[at : at+n])
			}
			m := openModel(t, retyped(t, path, tensor, c.typ, blocks))
			l, ok := m.Layer(name)
			require.True(t, ok)
			require.Equal(t, c.scheme, l.Scheme)
			want := make([]float32, 96*c.in)
			require.NoError(t, c.typ.Decode(want, blocks))
			w, err := m.Weight(name)
			require.NoError(t, err)
			require.Equal(t, want, w.Dequantize().Data)
			require.Equal(t, want, matrixOf(t, m, name+layout.WeightSuffix).Data)
			if c.off == nil {
				return
			}
			c.off(blocks[:n])
			m = openModel(t, retyped(t, path, tensor, c.typ, blocks))
			_, err = m.Weight(name)
			require.ErrorIs(t, err, layout.ErrNotWeight)
			require.ErrorContains(t, err, "row 0: ")
			require.NoError(t, c.typ.Decode(want, blocks))
			require.Equal(t, want, matrixOf(t, m, name+layout.WeightSuffix).Data)
		})
	}
}

// retyped is a copy of a file in which one tensor has another type and content.
func retyped(t *testing.T, path, name string, typ gguf.Type, content []byte) string {
	t.Helper()
	f, err := gguf.Open(path)
	require.NoError(t, err)
	defer f.Close()
	tensors := f.Tensors()
	for i := range tensors {
		if tensors[i].Name == name {
			tensors[i].Type = typ
		}
	}
	out := filepath.Join(t.TempDir(), "again.gguf")
	w, err := gguf.Create(out, f.KV(), tensors)
	require.NoError(t, err)
	for _, tn := range tensors {
		data := content
		if tn.Name != name {
			data = make([]byte, tn.Bytes())
			require.NoError(t, f.ReadAt(tn.Name, data, 0))
		}
		require.NoError(t, w.Append(tn.Name, data))
	}
	require.NoError(t, w.Close())
	return out
}

// A scale beside a matrix of NVFP4 multiplies it: with ours the matrix is a weight, with
// another one it is only dense, and of a wrong shape it is refused.
func TestTensorScale(t *testing.T) {
	const tensor, name = "blk.0.ffn_gate.scale", "model.layers.0.mlp.gate_proj"
	src := openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", map[string]any{"hidden_size": 64, "intermediate_size": 96})))
	l := layout.Layer{Name: name, Out: 96, In: 64, Scheme: kquant.TensorScaled().Scheme()}
	require.NoError(t, ggufmodel.Format{}.Check(l))
	q, err := quant.RTN{}.Quantize(t.Context(), matrixOf(t, src, name+layout.WeightSuffix), l.Scheme, nil)
	require.NoError(t, err)
	path := writeGGUFModel(t, src, ggufmodel.Format{}, map[string]*quant.Weight{name: q})
	m := openModel(t, path)
	w, err := m.Weight(name)
	require.NoError(t, err)
	require.Equal(t, l.Scheme, w.Scheme)
	require.Equal(t, q.Dequantize(), w.Dequantize())
	require.Equal(t, q.Dequantize(), matrixOf(t, m, name+layout.WeightSuffix))
	half := binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.5))
	m = openModel(t, retyped(t, path, tensor, gguf.F32, half))
	_, err = m.Weight(name)
	require.ErrorIs(t, err, layout.ErrNotWeight)
	for i, v := range matrixOf(t, m, name+layout.WeightSuffix).Data {
		require.Equal(t, 128*q.Dequantize().Data[i], v)
	}
	_, err = checkpoint.Open(retyped(t, path, tensor, gguf.F16, half[:2]))
	require.ErrorContains(t, err, "blk.0.ffn_gate.scale")
	require.ErrorContains(t, err, "want a vector of F32")
}
