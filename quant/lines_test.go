package quant_test

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestRoundLines: line by line, from floats or halves, the bytes are those of
// RTN.
func TestRoundLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		out, in := rapid.IntRange(1, 9).Draw(t, "out"), rapid.IntRange(1, 300).Draw(t, "in")
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		size := math.Exp2(float64(rapid.IntRange(-30, 10).Draw(t, "size")))
		s := quant.Scheme{
			Bits:      rapid.SampledFrom([]int{4, 4, 4, 2, 3, 8}).Draw(t, "bits"),
			GroupSize: rapid.SampledFrom([]int{32, 64, 128, 20, quant.WholeLine}).Draw(t, "group"),
			Symmetric: rapid.Bool().Draw(t, "symmetric"),
			Clip:      rapid.Bool().Draw(t, "clip"),
			Range:     rapid.SampledFrom([]quant.Range{quant.RangeZero, quant.RangeZero, quant.RangePaper}).Draw(t, "range"),
			ScaleType: rapid.SampledFrom([]quant.ScaleType{quant.F16, quant.F16, quant.F32}).Draw(t, "scale"),
			MinZero:   rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "least zero"),
		}
		halves := make([]uint16, out*in)
		w := tensor.New(out, in)
		for i := range w.Data {
			w.Data[i] = float32(rnd.NormFloat64() * size)
		}
		if rapid.Bool().Draw(t, "zeros") {
			clear(w.Data[:len(w.Data)/2])
		}
		bf16 := rapid.Bool().Draw(t, "bf16")
		if bf16 {
			tensor.F32ToBF16(halves, w.Data)
			tensor.BF16ToF32(w.Data, halves)
		} else {
			tensor.F32ToF16(halves, w.Data)
			tensor.F16ToF32(w.Data, halves)
		}
		want, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
		require.NoError(t, err)
		cut := rapid.IntRange(0, out).Draw(t, "cut")
		got := quant.NewWeight(out, in, s)
		round := got.RoundF16
		if bf16 {
			round = got.RoundBF16
		}
		require.NoError(t, round(cut, halves[cut*in:]))
		require.NoError(t, round(0, halves[:cut*in]))
		require.Equal(t, want, got)
		got = quant.NewWeight(out, in, s)
		require.NoError(t, got.RoundLines(cut, w.View(cut, out, 0, in)))
		require.NoError(t, got.RoundLines(0, w.View(0, cut, 0, in)))
		require.Equal(t, want, got)
	})
}

func TestRoundLinesErrors(t *testing.T) {
	s := quant.Scheme{Bits: 4, GroupSize: 64}
	w := quant.NewWeight(3, 128, s)
	src := make([]uint16, 2*128)
	src[128+70] = 0x7f80 // +Inf
	require.ErrorContains(t, w.RoundBF16(1, src), "output channel 2, group 1: weight is not finite")
	src[128+70] = 0x7f00 // too large for a half float's scale
	require.ErrorIs(t, w.RoundBF16(1, src), quant.ErrScaleRange)
	require.Panics(t, func() { _ = w.RoundBF16(2, src) })
	require.Panics(t, func() { _ = w.RoundLines(0, tensor.New(1, 127)) })
}
