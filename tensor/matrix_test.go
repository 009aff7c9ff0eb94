package tensor_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"

	"github.com/golowbit/lowbit/tensor"
)

func TestMatrix(t *testing.T) {
	m := tensor.New(5, 7)
	for i := range m.Data {
		m.Data[i] = float32(i)
	}
	require.EqualValues(t, 23, m.At(3, 2))
	v := m.View(1, 4, 2, 5)
	require.Equal(t, []float32{16, 17, 18}, v.Row(1))
	v.Set(0, 0, -1)
	require.EqualValues(t, -1, m.At(1, 2), "a view shares memory")
	c := v.Clone()
	require.Equal(t, 3, c.Stride)
	v.Zero()
	require.EqualValues(t, -1, c.At(0, 0), "a clone does not")
	require.EqualValues(t, 0, m.At(3, 4))
	require.EqualValues(t, 26, m.At(3, 5), "zeroing stays in the view")
	v.CopyFrom(c)
	require.EqualValues(t, -1, m.At(1, 2))

	big := tensor.New(40, 70)
	for i := range big.Data {
		big.Data[i] = float32(i)
	}
	tr := big.View(1, 39, 3, 69).T()
	require.Equal(t, []int{66, 38}, []int{tr.Rows, tr.Cols})
	for i := range 66 {
		for j := range 38 {
			require.Equal(t, big.At(j+1, i+3), tr.At(i, j))
		}
	}
	require.Empty(t, m.View(2, 2, 0, 7).Data)
	require.EqualValues(t, 4, tensor.FromSlice(2, 2, []float32{1, 2, 3, 4}).At(1, 1))
}

func TestMatrixPanics(t *testing.T) {
	m := tensor.New(2, 3)
	require.PanicsWithValue(t, "tensor: negative dimension", func() { tensor.New(-1, 2) })
	require.PanicsWithValue(t, "tensor: slice length does not match the shape", func() { tensor.FromSlice(2, 2, nil) })
	require.PanicsWithValue(t, "tensor: view out of range", func() { m.View(0, 3, 0, 1) })
	require.PanicsWithValue(t, "tensor: copy of a different shape", func() { m.CopyFrom(tensor.New(3, 2)) })
}

// Half floats are those of x448/float16, every one of them.
func TestHalf(t *testing.T) {
	src := make([]uint16, 1<<16)
	for i := range src {
		src[i] = uint16(i)
	}
	f, back := make([]float32, len(src)), make([]uint16, len(src))
	tensor.F16ToF32(f, src)
	for i, v := range f {
		require.Equal(t, math.Float32bits(float16.Frombits(src[i]).Float32()), math.Float32bits(v))
	}
	tensor.F32ToF16(back, f)
	for i, v := range f {
		require.Equal(t, float16.Fromfloat32(v).Bits(), back[i])
	}
	tensor.BF16ToF32(f, src)
	for i, v := range f {
		require.Equal(t, uint32(src[i])<<16, math.Float32bits(v))
	}
	tensor.F32ToBF16(back, []float32{1, 1 + 0x1p-8, 1 + 0x1.8p-8, 1 + 0x3p-8, float32(math.NaN())})
	require.Equal(t, []uint16{0x3f80, 0x3f80, 0x3f81, 0x3f82, 0x7fc0}, back[:5])
	require.EqualValues(t, 65504, tensor.RoundF16(65519))
	require.True(t, math.IsInf(float64(tensor.RoundF16(65520)), 1))
}
