package gptq_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// outlierInputs are activations of which every 61st channel is 20 times as
// large as the others.
func outlierInputs(tokens, in int) *tensor.Matrix {
	rnd := rand.New(rand.NewPCG(1, 2))
	x := tensor.New(tokens, in)
	for i := range x.Data {
		x.Data[i] = float32(rnd.NormFloat64())
		if i%in%61 == 0 {
			x.Data[i] *= 20
		}
	}
	return x
}

func gaussianWeight(out, in int) *tensor.Matrix {
	rnd := rand.New(rand.NewPCG(3, 4))
	w := tensor.New(out, in)
	for i := range w.Data {
		w.Data[i] = float32(0.02 * rnd.NormFloat64())
	}
	return w
}

// BenchmarkSolve quantizes a weight to 4 bits in groups of 128, factorization
// of H included. GFLOP/s counts out·in² + in³/3 operations.
func BenchmarkSolve(b *testing.B) {
	shapes := [][2]int{{1024, 1024}, {2048, 2048}, {4096, 4096}, {11008, 4096}, {8192, 8192}}
	cals := map[int]*quant.Calibration{}
	run := func(out, in int, name string, q gptq.Quantizer, s quant.Scheme) {
		b.Run(fmt.Sprintf("%dx%d/%s", out, in, name), func(b *testing.B) {
			if testing.Short() && out*in > 1<<20 {
				b.Skip("large")
			}
			if cals[in] == nil {
				clear(cals)
				cals[in] = quant.NewCalibration(outlierInputs(in+in/4, in), 0)
			}
			w := gaussianWeight(out, in)
			s.Bits, s.GroupSize = 4, 128
			for b.Loop() {
				// A new Calibration remembers no factorization.
				cal := &quant.Calibration{H: cals[in].H, Tokens: cals[in].Tokens}
				_, err := q.Quantize(context.Background(), w, s, cal)
				require.NoError(b, err)
			}
			n, m := float64(in), float64(out)
			b.ReportMetric((m*n*n+n*n*n/3)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
	for _, s := range shapes {
		run(s[0], s[1], "oc", gptq.Quantizer{}, quant.Scheme{})
		run(s[0], s[1], "ic", gptq.Quantizer{}, quant.Scheme{Axis: quant.IC})
	}
	run(2048, 2048, "oc-dynamic", gptq.Quantizer{Order: gptq.OrderNatural}, quant.Scheme{})
	run(2048, 2048, "oc-clip", gptq.Quantizer{}, quant.Scheme{Clip: true})
}
