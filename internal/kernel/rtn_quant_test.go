package kernel_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// The fused pass writes what quant.RTN writes.
func TestRTN4IsQuantRTN(t *testing.T) {
	const rows, cols, group = 9, 1100, 64 // the last group is short
	r := rand.New(rand.NewPCG(1, 2))
	w := tensor.New(rows, cols)
	src := make([]uint16, rows*cols)
	for i := range w.Data {
		w.Data[i] = float32(r.NormFloat64() * 0.03)
	}
	kernel.F32ToBF16(src, w.Data)
	clear(src[3*cols : 3*cols+2*group])
	kernel.BF16ToF32(w.Data, src)
	want, err := quant.RTN{}.Quantize(context.Background(), w, quant.Scheme{Bits: 4, GroupSize: group}, nil)
	require.NoError(t, err)
	for _, floats := range []bool{false, true} {
		got := quant.NewWeight(rows, cols, want.Scheme)
		n, g := got.WordsPerLine(), got.Groups()
		for l := range rows {
			if floats {
				require.True(t, kernel.RTN4F32(got.Codes[l*n:], got.Scales[l*g:], got.Zeros[l*g:], w.Row(l), group))
			} else {
				require.True(t, kernel.RTN4BF16(got.Codes[l*n:], got.Scales[l*g:], got.Zeros[l*g:], src[l*cols:(l+1)*cols], group))
			}
		}
		require.Equal(t, want.Codes, got.Codes)
		require.Equal(t, want.Scales, got.Scales)
		require.Equal(t, want.Zeros, got.Zeros)
	}
}
