package ggufmodel

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestFreeBiases: weights with free biases, as mlx has them, are stored in Q4_1 and
// Q5_1 with all their values, scales of either sign too.
func TestFreeBiases(t *testing.T) {
	for bits, want := range map[int]gguf.Type{2: gguf.Q4_1, 3: gguf.Q4_1, 4: gguf.Q4_1, 5: gguf.Q5_1} {
		for _, typ := range []quant.ScaleType{quant.F16, quant.BF16} {
			grid, _ := affine.Of(bits, typ)
			w := quant.NewWeight(3, 256, grid.Scheme(64))
			rng := rand.New(rand.NewPCG(uint64(bits), uint64(typ)))
			codes := make([]uint8, w.In)
			for r := range w.Out {
				for i := range codes {
					codes[i] = uint8(rng.IntN(1 << bits))
				}
				w.SetLine(r, codes)
			}
			for i := range w.Scales {
				w.Scales[i], w.Shifts[i] = tensor.RoundBF16(float32(rng.NormFloat64())), tensor.RoundBF16(float32(rng.NormFloat64()))
			}
			l := layout.LayerOf("model.layers.0.mlp.up_proj", w)
			require.NoError(t, Format{}.Check(l))
			require.Equal(t, want, blockType(l.Scheme))
			data, err := packRows(w, want, nil)
			require.NoError(t, err)
			got := make([]float32, w.In)
			block, _ := gridOf(l.Scheme)
			scale, shift := make([]float32, w.In/gguf.BlockLen), make([]float32, w.In/gguf.BlockLen)
			all := w.Dequantize()
			for r := range w.Out {
				block.Unpack(data[r*want.RowBytes(w.In):], codes, scale, shift)
				block.Values(got, codes, scale, shift, gguf.BlockLen)
				require.Equal(t, all.Row(r), got)
			}
			w.Shifts[1] = 1.0001
			_, err = packRows(w, want, nil)
			require.ErrorContains(t, err, "row 0: block 2")
		}
	}
	for _, c := range []struct {
		bits  int
		typ   quant.ScaleType
		group int
		want  string
	}{{6, quant.F16, 64, "the grid is none of a block type"}, {4, quant.F32, 64, "half-float scales and minima"}, {4, quant.F16, 16, "not a multiple of 32"}} {
		grid, _ := affine.Of(c.bits, c.typ)
		err := Format{}.Check(layout.Layer{Name: "model.layers.0.mlp.up_proj", Out: 3, In: 256, Scheme: grid.Scheme(c.group)})
		require.ErrorIs(t, err, layout.ErrUnsupported)
		require.ErrorContains(t, err, c.want)
	}
}
