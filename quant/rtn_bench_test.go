package quant_test

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// BenchmarkRTN rounds a weight [512, 4096] to 4 bits in groups of 128.
func BenchmarkRTN(b *testing.B) {
	const out, in = 512, 4096
	rng := rand.New(rand.NewPCG(1, 1))
	w := tensor.New(out, in)
	for i := range w.Data {
		w.Data[i] = float32(rng.NormFloat64())
	}
	for _, c := range []struct {
		name string
		s    quant.Scheme
	}{
		{"oc", quant.Scheme{}},
		{"ic", quant.Scheme{Axis: quant.IC}},
		{"symmetric", quant.Scheme{Symmetric: true}},
		{"clip", quant.Scheme{Clip: true}},
		{"clip-input", quant.Scheme{Clip: true, ClipInput: true}},
	} {
		c.s.Bits, c.s.GroupSize = 4, 128
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(4 * out * in)
			for b.Loop() {
				_, err := quant.RTN{}.Quantize(context.Background(), w, c.s, nil)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkDequantize widens a weight [512, 4096] of 4 bits.
func BenchmarkDequantize(b *testing.B) {
	const out, in = 512, 4096
	q := quant.NewWeight(out, in, quant.Scheme{Bits: 4, GroupSize: 128})
	for i := range q.Scales {
		q.Scales[i] = 0.5
	}
	b.SetBytes(4 * out * in)
	for b.Loop() {
		q.Dequantize()
	}
}
