package gptq_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
)

// Refinement must never be worse than what it is given, for any way the
// weight was quantized, and must be what it claims to be.
func TestImproveIsMonotone(t *testing.T) {
	ctx := context.Background()
	quantizers := map[string]quant.Quantizer{
		"rtn":         quant.RTN{},
		"gptq":        gptq.Quantizer{},
		"act-dynamic": gptq.Quantizer{Groups: gptq.GroupsDynamic},
	}
	for _, c := range golden.Cases(t) {
		cal := &quant.Calibration{H: c.H, Tokens: 192}
		for name, q := range quantizers {
			for _, axis := range []quant.Axis{quant.OC, quant.IC} {
				for _, sym := range []bool{false, true} {
					for _, bits := range []int{2, 3, 4, 8} {
						t.Run(fmt.Sprintf("%s/%s/%v/sym=%v/%d", c.Name, name, axis, sym, bits), func(t *testing.T) {
							s := quant.Scheme{Bits: bits, GroupSize: c.Group, Axis: axis, Symmetric: sym, Clip: true}
							w, err := q.Quantize(ctx, c.W, s, cal)
							require.NoError(t, err)
							before := quant.Loss(c.W, w.Dequantize(), c.H, 1)
							better, err := gptq.Improve(ctx, c.W, w, cal, gptq.DefaultRefine(), 0)
							require.NoError(t, err)
							require.NoError(t, better.Validate())
							after := quant.Loss(c.W, better.Dequantize(), c.H, 1)
							require.LessOrEqual(t, after, before*(1+1e-5))
							require.InEpsilon(t, after, quant.Sum(better.RowLoss), 1e-3)
							if bits <= 4 && name == "rtn" {
								require.Less(t, after, before*0.95, "correlated inputs leave much to gain")
							}
						})
					}
				}
			}
		}
	}
}
