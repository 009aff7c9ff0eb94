// Command layer quantizes one linear layer with activations of one's own: no
// model, no files. It compares round-to-nearest, GPTQ and AdaDim over GPTQ by
// what counts, the error of the layer's output on the activations.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "layer:", err)
		os.Exit(1)
	}
}

const (
	tokens = 1024
	out    = 96
	in     = 128
)

func run(ctx context.Context, stdout io.Writer) error {
	w, x := example()

	// The statistics of the inputs: batches of activations [tokens, in] are
	// added one after another and need not be kept.
	c := quant.NewCollector(in)
	c.Add(x.View(0, tokens/2, 0, in), 0)
	c.Add(x.View(tokens/2, tokens, 0, in), 0)
	cal := c.Calibration()

	// 3 bits, 32 weights a scale.
	scheme := quant.Scheme{Bits: 3, GroupSize: 32}
	methods := []struct {
		name string
		quant.Quantizer
	}{
		{"round to nearest", quant.RTN{}},
		{"GPTQ", gptq.Quantizer{}},
		{"GPTQ, refined", gptq.Quantizer{Refine: gptq.DefaultRefine()}},
		{"AdaDim over GPTQ", adadim.Quantizer{
			Method: gptq.Quantizer{Refine: gptq.DefaultRefine()}, Arms: adadim.AllArms(), Search: adadim.SearchMethod,
		}},
	}
	last := 1.0
	for _, m := range methods {
		q, err := m.Quantize(ctx, w, scheme, cal)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		e := outputError(w, q.Dequantize(), x)
		bits := float64(q.StorageBits()) / (out * in)
		fmt.Fprintf(stdout, "%-18s axis %v  %.3f bits a weight  output error %.2f %%\n", m.name, q.Scheme.Axis, bits, 100*e)
		if e > last {
			return fmt.Errorf("%s: output error %g is above that of the method before, %g", m.name, e, last)
		}
		last = e
	}
	return nil
}

// example makes a weight [out, in] and inputs [tokens, in] that are
// correlated and have a few outlier channels, as those of real models do.
func example() (w, x *tensor.Matrix) {
	r := rand.New(rand.NewPCG(1, 2))
	w, x = tensor.New(out, in), tensor.New(tokens, in)
	for i := range w.Data {
		w.Data[i] = float32(r.NormFloat64()) / 10
	}
	for t := range tokens {
		row, v := x.Row(t), 0.0
		for j := range row {
			v = 0.8*v + 0.6*r.NormFloat64()
			row[j] = float32(v)
			if j%50 == 7 {
				row[j] *= 20
			}
		}
	}
	return w, x
}

// outputError is ‖X (approx-w)ᵀ‖² / ‖X wᵀ‖², from the activations themselves.
func outputError(w, approx, x *tensor.Matrix) float64 {
	y, z := tensor.New(tokens, out), tensor.New(tokens, out)
	tensor.Gemm(false, true, 1, x, w, 0, y, 0)
	tensor.Gemm(false, true, 1, x, approx, 0, z, 0)
	var diff, size float64
	for i, v := range y.Data {
		d := float64(z.Data[i]) - float64(v)
		diff += d * d
		size += float64(v) * float64(v)
	}
	return diff / size
}
