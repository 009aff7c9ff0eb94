package quant_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/golden"
	"github.com/golowbit/lowbit/quant"
)

// Round-to-nearest must be exactly that of the public AdaDim code.
func TestRTNReproducesReference(t *testing.T) {
	for _, c := range golden.Cases(t) {
		for _, r := range c.Results {
			axis, err := quant.ParseAxis(r.Axis)
			require.NoError(t, err)
			if r.Method != "rtn_"+r.Axis {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s%d", c.Name, r.Method, r.Bits), func(t *testing.T) {
				s := quant.Scheme{Bits: r.Bits, GroupSize: c.Group, Axis: axis, Range: quant.RangePaper, ScaleType: quant.F32}
				w, err := quant.RTN{}.Quantize(context.Background(), c.W, s, nil)
				require.NoError(t, err)
				require.NoError(t, w.Validate())
				lines, groups := w.Lines(), w.Groups()
				code := make([]uint8, w.LineLen())
				for l := range lines {
					w.Line(code, l)
					for p, u := range code {
						at := l*w.In + p
						if axis == quant.IC {
							at = p*w.In + l
						}
						require.Equal(t, r.Codes[at], u, "code %d of line %d", p, l)
					}
					for k := range groups {
						at := l*groups + k
						if axis == quant.IC {
							at = k*lines + l
						}
						require.Equal(t, r.Scales[at], w.Scales[l*groups+k])
						require.Equal(t, r.Zeros[at], float32(w.Zeros[l*groups+k]))
					}
				}
				loss := quant.Loss(c.W, w.Dequantize(), c.H, 1)
				require.InEpsilon(t, r.Loss, loss, 1e-4)
			})
		}
	}
}
