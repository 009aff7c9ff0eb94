package quant_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

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

// A scheme is text in JSON, as it is in flags.
func ExampleScheme() {
	text, err := json.Marshal(quant.Scheme{Bits: 4, GroupSize: 128, Axis: quant.IC})
	fmt.Println(string(text), err)
	_, err = quant.ParseAxis("rows")
	fmt.Println(err)
	// Output:
	// {"bits":4,"group_size":128,"axis":"ic","symmetric":false,"strided":false,"range":"zero","scale_type":"f16","clip":false,"clip_input":false,"min_zero":0} <nil>
	// invalid quantization scheme: unknown axis "rows", want oc or ic
}

// Inputs come batch by batch; no more than H is kept of them.
func ExampleCollector() {
	c := quant.NewCollector(2)
	c.Add(tensor.FromSlice(2, 2, []float32{1, 2, 3, 4}), 0) // [tokens, in]
	c.Add(tensor.FromSlice(1, 2, []float32{-1, 1}), 0)
	cal := c.Calibration()
	fmt.Println(cal.Tokens, cal.H.Data)
	fmt.Printf("%.2f\n", cal.MeanAbs)
	// Output:
	// 3 [11 13 13 21]
	// [1.67 2.33]
}

// truncating is a method of one's own: it rounds towards 0, on grids of which
// every scale is stretched.
type truncating struct {
	Stretch float32
}

func (m truncating) Quantize(ctx context.Context, w *tensor.Matrix, s quant.Scheme, cal *quant.Calibration) (*quant.Weight, error) {
	smaller := w.Clone()
	for i := range smaller.Data {
		smaller.Data[i] *= m.Stretch
	}
	return quant.RTN{}.Quantize(ctx, smaller, s, cal)
}

// NeedsCalibration says that no text has to be read for the method.
func (truncating) NeedsCalibration() bool { return false }

// A method says what it can by methods of its own; what it leaves out has an
// answer too. An interrupted run is resumed only if the parameters are equal.
func ExampleParameters() {
	m := truncating{Stretch: 0.9}
	p, err := quant.Parameters(m)
	fmt.Println(p.Type, string(p.Parameters), err)
	fmt.Println("needs data:", quant.NeedsCalibration(m))
	fmt.Println("is its own draft:", quant.Draft(m) == m)
	// Output:
	// quant_test.truncating {"Stretch":0.9} <nil>
	// needs data: false
	// is its own draft: true
}

// e2m1 is the grid of 4-bit floats: a sign and 0, 0.5, 1, 1.5, 2, 3, 4 or 6,
// times a power of two that 8 bits store.
type e2m1 struct{}

var e2m1Levels = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

func (e2m1) MarshalText() ([]byte, error) { return []byte("e2m1"), nil }
func (e2m1) Bits() int                    { return 4 }
func (e2m1) Span() int                    { return 1 }
func (e2m1) ParamBits(groups int) int64   { return 8 * int64(groups) }

func (e2m1) Fit(scale, shift, x, importance []float32, size int, clip quant.Clip) (int, error) {
	for k := range scale {
		var top float64
		for _, v := range x[k*size : min((k+1)*size, len(x))] {
			if v-v != 0 {
				return k, quant.ErrNotFinite
			}
			top = max(top, math.Abs(float64(v)))
		}
		scale[k], shift[k] = 1, 0
		if top > 0 {
			scale[k] = float32(math.Exp2(math.Ceil(math.Log2(top / 6))))
		}
	}
	return 0, nil
}

func (e2m1) Store(scale []float32, want []float64) {
	for k, v := range want {
		if v > 0 && !math.IsInf(v, 0) {
			scale[k] = float32(math.Exp2(math.RoundToEven(math.Log2(v))))
		}
	}
}

func (g e2m1) Round(codes []uint8, values, x, scale, shift []float32, size int) {
	for i, v := range x {
		best := math.Inf(1)
		for u, l := range e2m1Levels {
			if d := math.Abs(float64(scale[i/size]*l) - float64(v)); d < best {
				best, codes[i] = d, uint8(u)
			}
		}
	}
	if values != nil {
		g.Values(values, codes, scale, shift, size)
	}
}

func (e2m1) Values(dst []float32, codes []uint8, scale, shift []float32, size int) {
	for i, u := range codes {
		dst[i] = scale[i/size] * e2m1Levels[u]
	}
}

func (e2m1) Slopes(dst []float32, codes []uint8, shift []float32, size int) {
	for i, u := range codes {
		dst[i] = e2m1Levels[u]
	}
}

// A grid of one's own is given in the scheme, to any method.
func ExampleGrid() {
	w := tensor.FromSlice(2, 4, []float32{0.1, -0.2, 0.4, 1.3, 3.5, -4.5, 11, 21})
	s := quant.Scheme{Bits: 4, GroupSize: 4, Grid: e2m1{}}
	q, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(q.Dequantize().Data)
	fmt.Println(q.StorageBits(), "bits")
	// Output:
	// [0.125 -0.25 0.375 1.5 4 -4 12 24]
	// 48 bits
}
