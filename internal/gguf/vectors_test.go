package gguf

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// Blocks of vectors as llama.cpp's gguf-py dequantizes them: random bytes, with half
// floats where those stand, and bit for bit.
func TestVectors(t *testing.T) {
	cases := goldenBlocks(t, "vectors.json")
	require.Len(t, cases, len(vectorTypes))
	for typ := range vectorTypes {
		c, ok := cases[typ.String()]
		require.True(t, ok, typ.String())
		require.True(t, typ.Readable())
		src, got := c.bytes(t), make([]float32, len(c.Values))
		require.Len(t, src, typ.RowBytes(len(got)))
		require.Len(t, got, 2*SuperLen)
		require.NoError(t, typ.Decode(got, src))
		for i, v := range c.Values {
			require.Equal(t, math.Float32bits(v), math.Float32bits(got[i]), "%v, value %d: %g, want %g", typ, i, got[i], v)
		}
		bits, ok := typ.Vectors()
		require.True(t, ok)
		require.Contains(t, typ.String(), map[int]string{2: "", 3: "IQ3"}[bits])
	}
	_, ok := IQ4_XS.Vectors()
	require.False(t, ok)
}

// All vectors are gguf-py's, as bytes: the digests are of its tables.
func TestGrids(t *testing.T) {
	for _, c := range []struct {
		grid          func() []float32
		vectors, size int
		digest        string
	}{
		{gridIQ1, 2048, 8, "07540ffc1aeaf6ad"},
		{gridIQ2XXS, 256, 8, "05826b5d3e472a3a"},
		{gridIQ2XS, 512, 8, "06e47aaca60b4dc1"},
		{gridIQ2S, 1024, 8, "e1aa1473412b0552"},
		{gridIQ3XXS, 256, 4, "46e35f5a997efdee"},
		{gridIQ3S, 512, 4, "bd1af4945a1717c6"},
	} {
		var data []byte
		for _, v := range c.grid() {
			data = append(data, byte(int8(v)))
		}
		require.Len(t, data, c.vectors*c.size)
		sum := sha256.Sum256(data)
		require.Equal(t, c.digest, hex.EncodeToString(sum[:8]))
	}
}
