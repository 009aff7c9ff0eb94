package ggufmodel_test

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

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

// A block of NVFP4 has no place for a scale of the whole tensor.
func TestTensorScaleIsRefused(t *testing.T) {
	l := layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 64, In: 64, Scheme: own(gguf.NVFP4)}
	require.NoError(t, ggufmodel.Format{}.Check(l))
	l.Scheme = kquant.TensorScaled().Scheme()
	require.ErrorContains(t, ggufmodel.Format{}.Check(l), "none of a block type of GGUF")
}

// Types of vectors are read as dense values, and are no weights on a grid.
func TestGGUFVectors(t *testing.T) {
	const tensor, name = "blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj" // [96 256]
	config := map[string]any{"hidden_size": 256, "intermediate_size": 96}
	path := writeGGUFModel(t, openModel(t, ggufFolder(t, ggufmodel.SmallConfig("llama", config))), ggufmodel.Format{}, nil)
	for _, typ := range []gguf.Type{gguf.IQ1_S, gguf.IQ1_M, gguf.IQ2_XXS, gguf.IQ2_XS, gguf.IQ2_S, gguf.IQ3_XXS, gguf.IQ3_S} {
		blocks := make([]byte, typ.RowBytes(96*256))
		for i := range blocks {
			blocks[i] = byte(i * 89 >> 3)
		}
		for at := 0; at < len(blocks); at += typ.BlockBytes() {
			if typ == gguf.IQ1_M {
				blocks[at+55] = 0x38 // all of the exponent is there
			} else {
				binary.LittleEndian.PutUint16(blocks[at:], 0x3400)
			}
		}
		m := openModel(t, retyped(t, path, tensor, typ, blocks))
		l, ok := m.Layer(name)
		require.True(t, ok)
		require.NoError(t, l.Scheme.Validate())
		want := make([]float32, 96*256)
		require.NoError(t, typ.Decode(want, blocks))
		require.Equal(t, want, matrixOf(t, m, name+layout.WeightSuffix).Data)
		_, err := m.Weight(name)
		require.ErrorIs(t, err, layout.ErrNotWeight)
		require.ErrorContains(t, err, typ.String())
	}
}
