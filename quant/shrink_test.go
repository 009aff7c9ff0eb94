package quant_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// Shrink keeps the diagonal, and of the rest the less the fewer tokens there are; nothing
// changes where there are many.
func TestShrink(t *testing.T) {
	for tokens, keep := range map[int]float32{4: 1.2 - 4./6, 16: 1.2 - 4./12, 31: 1.2 - 4/19.5, 32: 1, 1 << 20: 1} {
		h := tensor.New(4, 4)
		for i := range h.Data {
			h.Data[i] = float32(i + 1)
		}
		want := h.Clone()
		c := &quant.Calibration{H: h, Tokens: tokens}
		c.Shrink()
		for i := range 4 {
			for j := range 4 {
				w := want.At(i, j)
				if i != j {
					w *= keep
				}
				require.InDelta(t, w, h.At(i, j), 1e-5, "%d tokens, (%d, %d)", tokens, i, j)
			}
		}
	}
}
