package enum_test

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/enum"
)

type color uint8

var errColor = errors.New("bad color")

func TestTable(t *testing.T) {
	table := enum.New[color]("Color", "color", errColor, "red", "green", "blue")
	for v, name := range []string{"red", "green", "blue"} {
		require.Equal(t, name, table.String(color(v)))
		require.NoError(t, table.Check(color(v)))
		text, err := table.Marshal(color(v))
		require.NoError(t, err)
		require.Equal(t, name, string(text))
		got, err := table.Parse(name)
		require.NoError(t, err)
		require.EqualValues(t, v, got)
		got = 9
		require.NoError(t, table.Unmarshal(&got, text))
		require.EqualValues(t, v, got)
	}
	require.Equal(t, "Color(3)", table.String(3))
	const want = "want red, green or blue"
	_, err := table.Marshal(3)
	require.EqualError(t, err, "bad color: unknown color 3, "+want)
	require.ErrorIs(t, err, errColor)
	v := color(2)
	err = table.Unmarshal(&v, []byte("Red"))
	require.EqualError(t, err, `bad color: unknown color "Red", `+want)
	require.ErrorIs(t, err, errColor)
	require.EqualValues(t, 2, v, "a failed parse must not touch the value")
	one := enum.New[color]("Color", "color", errColor, "red")
	require.EqualError(t, one.Check(1), "bad color: unknown color 1, want red")
}
