package adadim_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
)

// The choice must be the reference's wherever its margin is above 0.5 %.
func TestChoiceReproducesReference(t *testing.T) {
	for _, c := range golden.Cases(t) {
		for bits, want := range c.Choice {
			t.Run(fmt.Sprintf("%s/%s", c.Name, bits), func(t *testing.T) {
				b, err := strconv.Atoi(bits)
				require.NoError(t, err)
				loss := map[string]float64{}
				for _, r := range c.Results {
					if r.Bits == b {
						loss[r.Method] = r.Loss
					}
				}
				s := quant.Scheme{Bits: b, GroupSize: c.Group, Range: quant.RangePaper, ScaleType: quant.F32}
				cal := &quant.Calibration{H: c.H, Tokens: 192}
				w, d, err := adadim.Quantizer{}.Choose(context.Background(), adadim.Layer{Weight: c.W, Calibration: cal}, s)
				require.NoError(t, err)
				require.Len(t, d.Candidates, 2)
				require.InEpsilon(t, loss["rtn_oc"], d.Candidates[0].Loss, 1e-4)
				require.InEpsilon(t, loss["rtn_ic"], d.Candidates[1].Loss, 1e-4)
				require.InEpsilon(t, c.Size, d.OutputSize, 1e-4)
				margin := math.Log(loss["rtn_ic"] / loss["rtn_oc"])
				got, ok := d.Margin()
				require.True(t, ok)
				require.InDelta(t, margin, got, 1e-3)
				if math.Abs(margin) > 0.005 {
					require.Equal(t, want, w.Scheme.Axis.String())
				}
				require.Equal(t, d.Candidates[d.Chosen].Loss, d.Loss)
			})
		}
	}
}
