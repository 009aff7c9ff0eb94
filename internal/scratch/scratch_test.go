package scratch_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/scratch"
	"github.com/golowbit/lowbit/tensor"
)

func TestSlice(t *testing.T) {
	a := scratch.Slice([]int(nil), 5)
	require.Len(t, a, 5)
	b := scratch.Slice(a, 3)
	require.Len(t, b, 3)
	require.Same(t, &a[0], &b[0])
	require.Len(t, scratch.Slice(b, 5), 5)
	require.Len(t, scratch.Slice(b, 6), 6)
}

func TestMatrix(t *testing.T) {
	var m tensor.Matrix
	scratch.Matrix(&m, 3, 4)
	first := &m.Data[0]
	scratch.Matrix(&m, 6, 2)
	require.Same(t, first, &m.Data[0])
	require.Equal(t, []int{6, 2, 2, 12}, []int{m.Rows, m.Cols, m.Stride, len(m.Data)})
	scratch.Matrix(&m, 5, 3)
	require.Len(t, m.Data, 15)
}
