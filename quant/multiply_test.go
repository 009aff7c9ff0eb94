package quant_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/affine"
	"github.com/golowbit/lowbit/internal/kquant"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// TestMul compares products of packed weights with those of the dequantized ones, in float64: both axes, all
// bits, groups that divide and that do not, scales beside the groups, strided groups, a group index, a grid of
// its own, one row and many; and wants the same bits from any number of workers.
func TestMul(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	random := func(rows, cols int) *tensor.Matrix {
		m := tensor.New(rows, cols)
		for i := range m.Data {
			m.Data[i] = float32(rng.NormFloat64())
		}
		return m
	}
	shapes := [][2]int{{96, 64}, {33, 50}, {200, 176}, {1100, 48}, {40, 512}}
	if testing.Short() { // under emulation
		shapes = shapes[:2]
	}
	for _, shape := range shapes {
		w := random(shape[0], shape[1])
		grid, ok := affine.Of(4, quant.F16)
		require.True(t, ok)
		schemes := []quant.Scheme{grid.Scheme(16), grid.Scheme(32)}
		for _, name := range []string{"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"} {
			grid, ok := kquant.Named(name)
			require.True(t, ok)
			schemes = append(schemes, grid.Scheme())
		}
		for bits := 2; bits <= 8; bits++ {
			for _, size := range []int{16, 64, 50, quant.WholeLine} {
				schemes = append(schemes, quant.Scheme{Bits: bits, GroupSize: size})
			}
		}
		schemes = append(schemes, quant.Scheme{Bits: 4, GroupSize: 8, Strided: true})
		for _, s := range schemes {
			for _, s.Axis = range []quant.Axis{quant.OC, quant.IC} {
				q, err := quant.RTN{}.Quantize(context.Background(), w, s, nil)
				if err != nil {
					continue // strided groups that do not divide
				}
				variants := []*quant.Weight{q, scaled(q, rng), kept(scaled(q, rng), rng), summed(q)}
				summed := *scaled(q, rng)
				summed.Summands = []*quant.Weight{q, q}
				variants = append(variants, &summed)
				if s.Axis == quant.OC && !s.Strided && s.Grid == nil {
					variants = append(variants, indexed(q, rng))
				}
				for i, q := range variants {
					for _, rows := range []int{1, 3, 20} {
						checkMul(t, fmt.Sprintf("%v %+v variant %d, %d rows", shape, s, i, rows), q, random(rows, shape[1]))
					}
				}
			}
		}
	}
}

func checkMul(t *testing.T, name string, q *quant.Weight, x *tensor.Matrix) {
	t.Helper()
	d := q.Dequantize()
	y, again := tensor.New(x.Rows, q.Out), tensor.New(x.Rows, q.Out)
	for i := range y.Data {
		y.Data[i] = float32(math.NaN()) // what was there is not read
	}
	q.Mul(y, x, 1)
	q.Mul(again, x, 3)
	require.Equal(t, y.Data, again.Data, name)
	for i := range x.Rows {
		for r := range q.Out {
			var sum, size float64
			for j, v := range x.Row(i) {
				p := float64(v) * float64(d.At(r, j))
				sum, size = sum+p, size+math.Abs(p)
			}
			require.InDelta(t, sum, float64(y.At(i, r)), 2e-6*size+1e-12, "%s: row %d, output %d", name, i, r)
		}
	}
	if x.Rows == 1 {
		vec := make([]float32, q.Out)
		q.MulVec(vec, x.Row(0), 2)
		require.Equal(t, y.Row(0), vec, name)
	}
}

// scaled has a scale for every row and input.
func scaled(q *quant.Weight, rng *rand.Rand) *quant.Weight {
	s := *q
	for range q.Out {
		s.RowScale = append(s.RowScale, float32(0.5+rng.Float64()))
	}
	for range q.In {
		s.InputScale = append(s.InputScale, float32(0.5+rng.Float64()))
	}
	return &s
}

// kept has two inputs in 16 bits.
func kept(q *quant.Weight, rng *rand.Rand) *quant.Weight {
	s := *q
	s.Columns = []int32{1, int32(q.In - 2)}
	for range 2 * q.Out {
		s.ColumnValues = append(s.ColumnValues, float32(rng.IntN(64)-32)/8)
	}
	return &s
}

// summed is twice a weight.
func summed(q *quant.Weight) *quant.Weight {
	s := *q
	s.Summands = []*quant.Weight{q}
	return &s
}

// indexed has its groups in any order.
func indexed(q *quant.Weight, rng *rand.Rand) *quant.Weight {
	s := *q
	for range q.In {
		s.GroupIndex = append(s.GroupIndex, rng.Int32N(int32(q.Groups())))
	}
	return &s
}
