package gptq_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
)

// TestWorkers: the same bytes for any number of workers, and so for any width
// of panels, also where memory is reused from a larger weight before.
func TestWorkers(t *testing.T) {
	const out, in = 200, 333
	x := outlierInputs(400, in)
	for i := range x.Rows {
		x.Set(i, 17, 0) // a dead column
	}
	h := quant.NewCalibration(x, 0)
	w := gaussianWeight(out, in)
	for _, c := range []struct {
		q gptq.Quantizer
		s quant.Scheme
	}{
		{gptq.Quantizer{}, quant.Scheme{GroupSize: 32}},
		{gptq.Quantizer{}, quant.Scheme{GroupSize: 32, Clip: true, ClipInput: true}},
		{gptq.Quantizer{Groups: gptq.GroupsDynamic}, quant.Scheme{GroupSize: 32}},
		{gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{GroupSize: 100}},
		{gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{GroupSize: 200}},
		{gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{GroupSize: quant.WholeLine}},
		{gptq.Quantizer{}, quant.Scheme{GroupSize: 40, Axis: quant.IC}},
		{gptq.Quantizer{}, quant.Scheme{GroupSize: 24, Axis: quant.IC}},
		{gptq.Quantizer{}, quant.Scheme{GroupSize: 40, Axis: quant.IC, Strided: true}},
		{gptq.Quantizer{Groups: gptq.GroupsStatic}, quant.Scheme{GroupSize: 40, Axis: quant.IC}},
		{gptq.Quantizer{}, quant.Scheme{GroupSize: quant.WholeLine, Axis: quant.IC}},
	} {
		c.s.Bits = 3
		t.Run(fmt.Sprintf("%+v", c.s), func(t *testing.T) {
			var first *quant.Weight
			for _, workers := range []int{1, 2, 5, 16} {
				c.q.Workers = workers
				got, err := c.q.Quantize(context.Background(), w, c.s, &quant.Calibration{H: h.H, Tokens: h.Tokens})
				require.NoError(t, err)
				require.NoError(t, got.Validate())
				if first == nil {
					first = got
					loss := quant.Loss(w, got.Dequantize(), h.H, 1)
					require.InEpsilon(t, loss, quant.Sum(got.RowLoss), 1e-3)
					continue
				}
				require.Equal(t, first, got, "%d workers", workers)
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	cal := quant.NewCalibration(outlierInputs(300, 256), 0)
	_, err := gptq.Quantizer{}.Quantize(ctx, gaussianWeight(64, 256), quant.Scheme{Bits: 4, GroupSize: 64}, cal)
	require.ErrorIs(t, err, context.Canceled)
}
