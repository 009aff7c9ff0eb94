package gptq_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// A layer is quantized with the inputs that it has seen: as they are
// correlated, the error of one weight can be made up for by the next.
func ExampleQuantizer() {
	const tokens, in, out = 500, 64, 32
	rng := rand.New(rand.NewPCG(1, 2))
	x, w := tensor.New(tokens, in), tensor.New(out, in)
	for t := range tokens {
		v := float32(0)
		for j := range in {
			v = 0.9*v + float32(rng.NormFloat64())
			x.Set(t, j, v)
		}
	}
	for i := range w.Data {
		w.Data[i] = float32(rng.NormFloat64())
	}
	cal := quant.NewCalibration(x, 0)
	scheme := quant.Scheme{Bits: 2, GroupSize: 32}
	size := quant.Sum(quant.RowLosses(w, nil, cal.H, 0))
	for _, method := range []quant.Quantizer{
		quant.RTN{},
		gptq.Quantizer{},
		gptq.Quantizer{Refine: gptq.DefaultRefine()},
	} {
		q, err := method.Quantize(context.Background(), w, scheme, cal)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("error of the output: %.1f %%\n", 100*quant.Loss(w, q.Dequantize(), cal.H, 0)/size)
	}
	// Output:
	// error of the output: 18.0 %
	// error of the output: 4.3 %
	// error of the output: 3.7 %
}
