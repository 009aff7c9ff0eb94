package kept

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLast(t *testing.T) {
	var l Last[int]
	calls := 0
	get := func(name string) int {
		v, err := l.Get(name, func() (int, error) { calls++; return len(name), nil })
		require.NoError(t, err)
		return v
	}
	for _, name := range []string{"a", "bb", "ccc", "dddd", "a"} {
		require.Len(t, name, get(name))
	}
	require.Equal(t, most, calls)
	get("eeeee") // in place of bb, the one that was asked for longest ago
	get("a")
	require.Equal(t, most+1, calls)
	get("bb")
	require.Equal(t, most+2, calls)

	broken := errors.New("broken")
	_, err := l.Get("x", func() (int, error) { return 0, broken })
	require.ErrorIs(t, err, broken)
	require.Len(t, "x", get("x"), "an error is not kept")
}
