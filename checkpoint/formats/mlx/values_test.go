package mlx

import (
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/safetensors"
)

// TestAgainstMLX: the values are those of mx.dequantize, to the last bit
// (testdata/generate.py).
func TestAgainstMLX(t *testing.T) {
	f, err := safetensors.Open("testdata/values.safetensors")
	require.NoError(t, err)
	defer f.Close()
	for _, s := range []Scheme{
		{1, 32, affineMode}, {2, 32, affineMode}, {3, 32, affineMode}, {4, 32, affineMode}, {5, 32, affineMode}, {6, 32, affineMode}, {8, 32, affineMode},
		{4, 64, affineMode}, {3, 128, affineMode}, {4, 32, "mxfp4"}, {4, 16, "nvfp4"}, {8, 32, "mxfp8"},
	} {
		key := fmt.Sprintf("%s-%d-%d", s.Mode, s.Bits, s.Group)
		t.Run(key, func(t *testing.T) {
			require.NoError(t, s.Validate())
			want, err := f.ReadFloat32(key, nil)
			require.NoError(t, err)
			words, err := f.ReadBytes(key+".weight", nil)
			require.NoError(t, err)
			const rows, cols = 2, 128
			groups := cols / s.Group
			got, codes := make([]float32, rows*cols), make([]uint8, cols)
			for r := range rows {
				unpack(codes, wordsOf(words)[r*cols*s.Bits/32:], s.Bits)
				dst := got[r*cols : (r+1)*cols]
				if s.Mode == affineMode {
					scales, err := f.ReadRows(key+".scales", r, r+1, nil)
					require.NoError(t, err)
					biases, err := f.ReadRows(key+".biases", r, r+1, nil)
					require.NoError(t, err)
					affineRow(dst, codes, scales, biases, s.Group)
				} else {
					scales, err := f.ReadBytes(key+".scales", nil)
					require.NoError(t, err)
					floatRow(dst, codes, scales[r*groups:(r+1)*groups], levels(s), s)
				}
			}
			for i := range want {
				require.Equal(t, math.Float32bits(want[i]), math.Float32bits(got[i]), "element %d: %g, want %g", i, got[i], want[i])
			}
		})
	}
}

func wordsOf(p []byte) []uint32 {
	v := make([]uint32, len(p)/4)
	for i := range v {
		v[i] = uint32(p[4*i]) | uint32(p[4*i+1])<<8 | uint32(p[4*i+2])<<16 | uint32(p[4*i+3])<<24
	}
	return v
}

// TestUnpack: bit n of a row is bit n mod 32 of word n/32.
func TestUnpack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(1, 8).Draw(t, "bits")
		words := rapid.SliceOfN(rapid.Uint32(), bits, 4*bits).Draw(t, "words")
		words = words[:len(words)/bits*bits]
		codes := make([]uint8, 32*len(words)/bits)
		unpack(codes, words, bits)
		for j, c := range codes {
			want := uint8(0)
			for b := range bits {
				n := j*bits + b
				want |= uint8(words[n/32]>>(n%32)&1) << b
			}
			require.Equal(t, want, c)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, s := range []Scheme{{7, 32, affineMode}, {0, 32, affineMode}, {4, 0, affineMode}, {4, -32, affineMode}, {4, 48, affineMode}, {4, 64, "mxfp4"}, {3, 16, "nvfp4"}, {4, 32, "other"}} {
		require.Error(t, s.Validate(), "%v", s)
	}
}
