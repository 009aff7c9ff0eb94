package quant_test

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// An input channel with large weights spoils the groups of every row that
// crosses it, but only its own group when groups lie inside input channels.
func ExampleRTN() {
	w := tensor.FromSlice(4, 4, []float32{
		0.1, 0.2, 7, 0.3,
		0.3, 0.1, 5, 0.2,
		-0.2, 0.3, 6, -0.1,
		0.2, -0.3, 7, -0.3,
	})
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		scheme := quant.Scheme{Bits: 3, GroupSize: 4, Axis: axis}
		q, err := quant.RTN{}.Quantize(context.Background(), w, scheme, nil)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%v: %.2f\n", axis, q.Dequantize().Row(0))
	}
	// Output:
	// oc: [0.00 0.00 7.00 0.00]
	// ic: [0.07 0.17 7.00 0.26]
}

// What a layer's inputs leave behind is enough to tell the error of its
// output, without running it again.
func ExampleLoss() {
	x := tensor.FromSlice(3, 2, []float32{1, 0, 0, 10, 1, 10}) // [tokens, in]
	w := tensor.FromSlice(1, 2, []float32{0.5, 0.5})           // [out, in]
	cal := quant.NewCalibration(x, 0)
	fmt.Println(quant.Loss(w, tensor.FromSlice(1, 2, []float32{0.25, 0.5}), cal.H, 0))
	fmt.Println(quant.Loss(w, tensor.FromSlice(1, 2, []float32{0.5, 0.25}), cal.H, 0))
	// Output:
	// 0.125
	// 12.5
}
