package faults

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestByReason(t *testing.T) {
	var r ByReason
	require.NoError(t, r.Err("%s"))
	wide, odd := errors.New("too wide"), errors.New("odd")
	for _, name := range []string{"a", "b", "c", "d"} {
		r.Add(name, "too wide", wide)
	}
	r.Add("x", "odd", odd)
	require.EqualError(t, r.Err("bad: %s!"), "bad: a, b, c, d: too wide; x: odd!")
	r.Add("e", "too wide", errors.New("not the first"))
	r.Add("f", "too wide", wide)
	err := r.Err("%s")
	require.EqualError(t, err, "a, b, c, d and 2 more: too wide; x: odd")
	require.ErrorIs(t, err, wide)
	require.ErrorIs(t, err, odd)
}
