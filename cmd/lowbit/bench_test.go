package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/kernel"
)

func TestBench(t *testing.T) {
	r := runCommand(t, "bench", "--quick", "--json", "--threads", "1", "--shrink", "64")
	require.Zero(t, r.code, r.stderr)
	var names []string
	for line := range strings.Lines(r.stdout) {
		var v map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &v))
		require.Len(t, v, 6)
		require.Equal(t, kernel.Active().String(), v["level"])
		require.Positive(t, v["value"])
		require.Positive(t, v["floor"])
		require.NotEmpty(t, v["unit"])
		require.NotEmpty(t, v["bound_by"])
		names = append(names, v["name"].(string))
	}
	require.Contains(t, names, "fma")
	require.Contains(t, names, "memcpy")
	require.Contains(t, names, "solve/ic/4096x4096")
	require.Contains(t, names, "forward")

	r = runCommand(t, "bench", "--quick", "--shrink", "64")
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stdout, "kernels: "+kernel.Active().String())
	require.Contains(t, r.stdout, "gemm/4096")
	require.Contains(t, r.stdout, "by memory")

	r = runCommand(t, "bench", "--threads", "-1")
	require.Equal(t, exitUsage, r.code)
	r = runCommand(t, "bench", "model")
	require.Equal(t, exitUsage, r.code)
}
