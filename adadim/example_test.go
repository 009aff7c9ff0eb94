package adadim_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// powersOfTwo is a method of one's own: round-to-nearest on grids whose
// scales are powers of two, which some hardware multiplies for free.
type powersOfTwo struct{}

func (powersOfTwo) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	q, err := quant.Grids(ctx, w, s, cal, 0)
	if err != nil {
		return nil, err
	}
	for i, v := range q.Scales {
		p := float32(1)
		for ; p < v; p *= 2 {
		}
		for ; p/2 >= v; p /= 2 {
		}
		q.Scales[i], q.Zeros[i] = p, uint8(s.MaxCode()+1)/2
	}
	if s.Axis == quant.IC {
		w = w.T() // a line is a column
	}
	codes := make([]uint8, q.LineLen())
	for l := range q.Lines() {
		for p, v := range w.Row(l) {
			i := l*q.Groups() + q.Group(p)
			u := v/q.Scales[i] + float32(q.Zeros[i]) + 0.5
			codes[p] = uint8(min(max(u, 0), float32(s.MaxCode())))
		}
		q.SetLine(l, codes)
	}
	return q, nil
}

// Any method can choose its axis: it needs to know nothing about it.
func ExampleQuantizer() {
	const tokens, in, out = 200, 32, 32
	rng := rand.New(rand.NewPCG(1, 2))
	x, w := tensor.New(tokens, in), tensor.New(out, in)
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	for i := range w.Data {
		w.Data[i] = float32(rng.NormFloat64())
		if i%in == 7 {
			w.Data[i] *= 20 // the weights of one input are large
		}
	}
	cal := quant.NewCalibration(x, 0)
	q := adadim.Quantizer{Method: powersOfTwo{}, Search: adadim.SearchMethod}
	layer := adadim.Layer{Weight: w, Calibration: cal}
	weight, decision, err := q.Choose(context.Background(), layer, quant.Scheme{Bits: 4, GroupSize: 32})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range decision.Candidates {
		fmt.Printf("%v: error of the output %.1f %%\n", c.Arm, 100*c.Loss/decision.OutputSize)
	}
	fmt.Println("chosen:", weight.Scheme.Axis)
	// Output:
	// oc: error of the output 8.0 %
	// ic: error of the output 1.5 %
	// chosen: ic
}
