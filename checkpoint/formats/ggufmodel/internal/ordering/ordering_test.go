package ordering

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSegments(t *testing.T) {
	order := []int{2, 0, 1}
	values := []int{0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}
	there := Gather(values, 6, order)
	require.Equal(t, []int{4, 5, 0, 1, 2, 3, 14, 15, 10, 11, 12, 13}, there)
	require.Equal(t, values, Scatter(there, 6, order))
}

func TestPlaced(t *testing.T) {
	require.Equal(t, []int{1, -1, 0, -1}, Placed([]int{2, 0}, 4))
}
