package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
)

// TestPart: parts say what is missing, put together what is not, and refuse what they cannot do.
func TestPart(t *testing.T) {
	dir := t.TempDir()
	out, whole := filepath.Join(dir, "out"), filepath.Join(dir, "whole")
	part := func(out, i string, more ...string) []string {
		return append([]string{"quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--part", i}, more...)
	}
	succeed(t, "quantize", embedded, "-o", whole, "--method", "rtn", "--axis", "oc", "-q")

	o := succeed(t, part(out, "2/2", "-q")...)
	require.Regexp(t, `^part 2 of 2 is done; 14 layers of others are missing yet: the last part puts .*out together\n$`, o.stdout)
	o = runCommand(t, part(out, "1/2", "--bits", "3")...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "bits was 4, is 3")
	o = succeed(t, part(out, "1/2", "--json")...)
	var r lowbit.Report
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Equal(t, lowbit.Parted{Part: lowbit.Part{Index: 1, Count: 2}, Merged: true}, *r.Part)
	require.Len(t, r.Layers, 28)
	require.Equal(t, tree(t, whole), tree(t, out))
	o = succeed(t, part(out, "1/2")...)
	require.Contains(t, o.stdout, "part 1 of 2: "+out+" is complete, another part has put it together\n")

	t.Setenv("JOB_COMPLETION_INDEX", "1")
	o = succeed(t, part(out+"2", "auto/2", "-q")...)
	require.Contains(t, o.stdout, "part 2 of 2 is done")
	for text, want := range map[string]string{"auto": "want auto/N", "3/2": "from 1 to 2", "x": "want I/N"} {
		o = runCommand(t, part(out+"3", text)...)
		require.Equal(t, exitUsage, o.code, text)
		requireOneLine(t, o, want)
	}
	o = runCommand(t, part(out+"3", "1/2", "--tune", "scales")...)
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "not for parts")
	o = runCommand(t, "sweep", embedded, "-o", dir, "--eval", heldout, "--part", "1/2")
	require.Equal(t, exitUsage, o.code)
}
