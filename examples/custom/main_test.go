package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out, "../../testdata/tinyllama-2m", "../../testdata/tinyllama-2m-text"), out.String())
	t.Log(out.String())
}
