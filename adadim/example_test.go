package adadim_test

import (
	"context"
	"encoding/json"
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

// What was decided, and by what, is kept in JSON. What was not measured is not
// there.
func ExampleDecision() {
	d := adadim.Decision{
		Candidates: []adadim.Candidate{
			{Arm: adadim.ArmOC(), Measured: true, Loss: 4, Relative: 0.02, Objective: 4},
			{Arm: adadim.ArmICRowScale(), Power: 0.5, Measured: true, Loss: 1, Relative: 0.01, Objective: 1},
		},
		Chosen: 1, Measured: true, OutputSize: 100, Loss: 1, Relative: 0.01,
	}
	for _, d := range []adadim.Decision{d, {Candidates: []adadim.Candidate{{Arm: adadim.ArmOC()}}}} {
		text, err := json.Marshal(d)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(string(text))
	}
	margin, ok := d.Margin()
	fmt.Printf("margin %.2f, measured: %v\n", margin, ok)
	// Output:
	// {"candidates":[{"arm":"oc","loss":4,"relative":0.02,"objective":4},{"arm":"ic+row","power":0.5,"loss":1,"relative":0.01,"objective":1}],"chosen":1,"output_size":100,"loss":1,"relative":0.01}
	// {"candidates":[{"arm":"oc"}],"chosen":0}
	// margin -1.39, measured: true
}

func ExampleParseArms() {
	arms, err := adadim.ParseArms("oc,ic+row")
	fmt.Println(arms, err)
	_, err = adadim.ParseArms("ic+in")
	fmt.Println(err)
	// Output:
	// [oc ic+row] <nil>
	// invalid adadim options: unknown arm "ic+in", want paper, all, or a list of oc, oc+in, ic, ic+row
}
