package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/generation"
)

// TestGenerate: a model writes, and so does what it is quantized to.
func TestGenerate(t *testing.T) {
	o := succeed(t, "generate", embedded, "-p", "Once upon a time", "-n", "6", "--temperature", "0")
	require.Equal(t, ", there was a little girl\n", o.stdout)
	require.Regexp(t, `(?m)^6 tokens behind 6, [\d.]+ a second$`, o.stderr)
	c, stdout, stderr := command(t, "generate", embedded, "-p", "-", "-n", "6", "--temperature", "0", "-q")
	c.Stdin = strings.NewReader("Once upon a time\n")
	require.NoError(t, c.Run())
	require.Equal(t, ", there was a little girl\n", stdout.String())
	require.Empty(t, stderr.String())
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--bits", "8", "-q")
	o = succeed(t, "generate", out, "-p", "Once upon a time", "-n", "6", "--temperature", "0", "--json", "-q")
	var w generation.Written
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &w))
	require.Equal(t, ", there was a little girl", w.Text)
	require.Equal(t, 6, w.Tokens)

	o = runCommand(t, "generate", embedded, "-n", "0")
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "0 tokens to write")
	o = runCommand(t, "generate", embedded, "-p", "x", "--chat")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "no chat template")
}
