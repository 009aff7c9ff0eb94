package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/checking"
)

// TestCheck: a result that is whole, with its source, and one that is not.
func TestCheck(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--target", "vllm", "-q")
	o := succeed(t, "check", out, embedded, "-q")
	require.Empty(t, o.stdout)
	o = succeed(t, "check", out, embedded)
	require.Regexp(t, `(?m)^model\.layers\.0\.mlp\.down_proj +0\.\d{4}$`, o.stdout)
	require.Contains(t, o.stdout, "10 tensors as in "+embedded+": 0 errors, 0 warnings\nengines that load it: lowbit, vllm")
	require.Contains(t, o.stdout, "\nmlx-lm does not load it: ")

	weights := filepath.Join(out, "model.safetensors")
	st, err := os.Stat(weights)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(weights, st.Size()-4))
	o = runCommand(t, "check", out, "--json", "-q")
	require.Equal(t, exitError, o.code)
	require.Equal(t, "lowbit: "+out+": 1 errors were found\n", o.stderr)
	var r checking.Report
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Len(t, r.Findings, 1)
	require.Equal(t, checking.KindHeader, r.Findings[0].Kind)
	o = runCommand(t, "check", out, embedded, embedded)
	require.Equal(t, exitUsage, o.code)
	o = runCommand(t, "check", "gone")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "gone")
}
