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

// What another method has made of a weight can be improved, on the grid that
// the method has used.
func ExampleImprove() {
	const tokens, in, out = 300, 32, 16
	rng := rand.New(rand.NewPCG(3, 4))
	x, w := tensor.New(tokens, in), tensor.New(out, in)
	for t := range tokens {
		common := rng.NormFloat64()
		for j := range in {
			x.Set(t, j, float32(common+0.5*rng.NormFloat64()))
		}
	}
	for i := range w.Data {
		w.Data[i] = float32(rng.NormFloat64())
	}
	ctx, cal := context.Background(), quant.NewCalibration(x, 0)
	q, err := quant.RTN{}.Quantize(ctx, w, quant.Scheme{Bits: 3, GroupSize: 16}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	better, err := gptq.Improve(ctx, w, q, cal, gptq.DefaultRefine(), 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	before, after := quant.Loss(w, q.Dequantize(), cal.H, 0), quant.Loss(w, better.Dequantize(), cal.H, 0)
	fmt.Printf("error left: %.0f %%\n", 100*after/before)
	// Output:
	// error left: 36 %
}

// A layer whose inputs have drifted, because the layers before it are
// quantized, is given a target that makes up for it.
func ExampleCorrect() {
	const tokens, in, out = 400, 16, 8
	rng := rand.New(rand.NewPCG(5, 6))
	full, drifted, w := tensor.New(tokens, in), tensor.New(tokens, in), tensor.New(out, in)
	for i := range full.Data {
		full.Data[i] = float32(rng.NormFloat64())
		drifted.Data[i] = 0.9*full.Data[i] + 0.05*float32(rng.NormFloat64())
	}
	for i := range w.Data {
		w.Data[i] = 1
	}
	c := quant.NewPairCollector(in)
	c.AddPair(full, drifted, nil, 0)
	target, err := gptq.Correct(w, c.Calibration(), gptq.Correction{Strength: 1}, 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("a weight of %.1f becomes %.1f\n", w.At(0, 0), target.At(0, 0))
	// Output:
	// a weight of 1.0 becomes 1.1
}

// Enumerations are text wherever they are written.
func ExampleParseOrder() {
	o, err := gptq.ParseOrder("natural")
	fmt.Println(o, err)
	_, err = gptq.ParseOrder("act-order")
	fmt.Println(err)
	// Output:
	// natural <nil>
	// invalid gptq options: unknown column order "act-order", want activation, natural or group
}
