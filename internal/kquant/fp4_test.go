package kquant

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/quant"
)

// Codes and what is stored of them: 15 values, of which 0 is stored without a sign.
func TestFP4(t *testing.T) {
	values := [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6} // E2M1 by its bits
	for stored, v := range values {
		u := FP4Code(uint8(stored))
		require.Equal(t, v, fp4[u])
		if stored != 8 {
			require.Equal(t, uint8(stored), FP4(u))
		}
	}
}

// Scales are E8M0 and E4M3 by their bytes.
func TestFP4Scales(t *testing.T) {
	mx, nv := grid(t, gguf.MXFP4), grid(t, gguf.NVFP4)
	for b, want := range map[byte]float64{0: 0x1p-127, 1: 0x1p-126, 127: 1, 130: 8, 254: 0x1p127} {
		require.EqualValues(t, want, mx.FP4Scale(b), b)
	}
	require.True(t, math.IsNaN(float64(mx.FP4Scale(255))))
	for b, want := range map[byte]float64{0: 0, 1: 0x1p-9, 7: 7 * 0x1p-9, 8: 0x1p-6, 0x38: 1, 0x3c: 1.5, 0x7e: 448} {
		require.EqualValues(t, want, nv.FP4Scale(b), b)
		require.EqualValues(t, want/256, TensorScaled().FP4Scale(b), b)
	}
	require.True(t, math.IsNaN(float64(nv.FP4Scale(0x7f))))
	for _, g := range []Grid{mx, nv, TensorScaled()} {
		back := make([]byte, 1)
		for b := 1; b < 0x7f; b++ {
			require.NoError(t, g.FP4Scales(back, []float32{g.FP4Scale(byte(b))}))
			require.Equal(t, byte(b), back[0])
		}
		require.ErrorIs(t, g.FP4Scales(back, []float32{1.01}), quant.ErrScaleRange)
		named, ok := Named(g.String())
		require.True(t, ok)
		require.Equal(t, g, named)
	}
}

// Of all scales that can be stored none is better for a group than the one that is found.
func TestFP4FitIsTheBest(t *testing.T) {
	x, importance := sample(9, 4, 256)
	for _, g := range []Grid{grid(t, gguf.MXFP4), TensorScaled()} {
		for _, imp := range [][]float32{nil, importance} {
			size := g.Scheme().GroupSize
			_, values, scale, shift := rounded(t, g, x, imp)
			for i := range scale {
				a, b := i*size, (i+1)*size
				var w []float32
				if imp != nil {
					w = imp[a:b]
				}
				got := loss(x[a:b], values[a:b], w)
				codes, other := make([]uint8, size), make([]float32, size)
				for _, s := range g.kind().scales {
					g.Round(codes, other, x[a:b], []float32{float32(s)}, shift[:1], size)
					require.LessOrEqual(t, got, loss(x[a:b], other, w)*1.01, "%v group %d: %g, not %g", g, i, s, scale[i])
				}
			}
		}
	}
}
