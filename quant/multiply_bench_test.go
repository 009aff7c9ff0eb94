package quant_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// BenchmarkMulVec is a product of a packed 4096 x 4096 matrix with a vector; MB/s are those of what is packed.
func BenchmarkMulVec(b *testing.B) {
	const n = 4096
	rng := rand.New(rand.NewPCG(1, 2))
	m := tensor.New(n, n)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	b.Run("float32", func(b *testing.B) {
		b.SetBytes(4 * n * n)
		for b.Loop() {
			tensor.MulT(tensor.FromSlice(1, n, x), m, 0, tensor.FromSlice(1, n, y), 0)
		}
	})
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		for _, bits := range []int{2, 3, 4, 5, 6, 8} {
			b.Run(fmt.Sprintf("%v/%d bits", axis, bits), func(b *testing.B) {
				w, err := quant.RTN{}.Quantize(b.Context(), m, quant.Scheme{Bits: bits, GroupSize: 128, Axis: axis}, nil)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(w.StorageBits() / 8)
				for b.Loop() {
					w.MulVec(y, x, 0)
				}
			})
		}
	}
}

// BenchmarkMul is the product of a packed 4096 x 4096 matrix of 4 bits with 512 rows, beside that with floats.
func BenchmarkMul(b *testing.B) {
	const n, rows = 4096, 512
	rng := rand.New(rand.NewPCG(1, 2))
	m, x, y := tensor.New(n, n), tensor.New(rows, n), tensor.New(rows, n)
	for i := range m.Data {
		m.Data[i] = float32(rng.NormFloat64())
	}
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	b.Run("float32", func(b *testing.B) {
		for b.Loop() {
			tensor.Gemm(false, true, 1, x, m, 0, y, 0)
		}
	})
	for _, axis := range []quant.Axis{quant.OC, quant.IC} {
		b.Run(axis.String(), func(b *testing.B) {
			w, err := quant.RTN{}.Quantize(b.Context(), m, quant.Scheme{Bits: 4, GroupSize: 128, Axis: axis}, nil)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				w.Mul(y, x, 0)
			}
		})
	}
}

// BenchmarkMulVecGrids is BenchmarkMulVec for groups of llama.cpp's blocks and of mlx, with codes and parameters drawn.
func BenchmarkMulVecGrids(b *testing.B) {
	const n = 4096
	rng := rand.New(rand.NewPCG(1, 2))
	x, y := make([]float32, n), make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	schemes := map[string]quant.Scheme{
		"Q4_0": {Bits: 4, GroupSize: 32, Symmetric: true}, "Q8_0": {Bits: 8, GroupSize: 32, Symmetric: true},
	}
	for _, name := range []string{"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "NVFP4"} {
		g, _ := kquant.Named(name)
		schemes[name] = g.Scheme()
	}
	g, _ := affine.Of(4, quant.F16)
	schemes["mlx"] = g.Scheme(64)
	for _, name := range slices.Sorted(maps.Keys(schemes)) {
		w := quant.NewWeight(n, n, schemes[name])
		for i := range w.Codes {
			w.Codes[i] = rng.Uint32()
		}
		for i := range w.Scales {
			w.Scales[i] = rng.Float32()
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(w.StorageBits() / 8)
			for b.Loop() {
				w.MulVec(y, x, 0)
			}
		})
	}
}
