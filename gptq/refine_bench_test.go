package gptq_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// BenchmarkImprove refines a weight [1024, 1024] that was rounded to nearest,
// by one round of two sweeps.
func BenchmarkImprove(b *testing.B) {
	cal := quant.NewCalibration(outlierInputs(1280, 1024), 0)
	w := gaussianWeight(1024, 1024)
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		b.Run(axis.String(), func(b *testing.B) {
			s := quant.Scheme{Bits: 4, GroupSize: 128, Axis: axis}
			q, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
			require.NoError(b, err)
			for b.Loop() {
				_, err := gptq.Improve(context.Background(), w, q, cal, gptq.Refine{Rounds: 1, Sweeps: 2}, 0)
				require.NoError(b, err)
			}
		})
	}
}
