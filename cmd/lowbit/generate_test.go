package main

import (
	"encoding/json"
	"os"
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

	// Packed weights give what the floats that they stand for give.
	for name, args := range map[string][]string{
		"ic": {"--method", "rtn", "--axis", "ic", "--bits", "3", "--group-size", "64"}, "gguf": {"--method", "rtn", "--format", "gguf", "--gguf-type", "Q4_K_M"},
	} {
		packed := filepath.Join(t.TempDir(), name)
		if name == "gguf" {
			packed += ".gguf"
		}
		succeed(t, append([]string{"quantize", embedded, "-o", packed, "-q"}, args...)...)
		succeed(t, "convert", packed, "-o", packed+".floats", "--format", "dense", "-q")
		write := func(model string) string {
			return succeed(t, "generate", model, "-p", "The cat", "-n", "12", "--temperature", "0", "-q").stdout
		}
		require.Equal(t, write(packed+".floats"), write(packed), name)
	}

	o = runCommand(t, "generate", embedded, "-n", "0")
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "0 tokens to write")
	o = runCommand(t, "generate", embedded, "-p", "x", "--chat")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "no chat template")
}

// TestCalibSelf: a model without any text is calibrated on its own.
func TestCalibSelf(t *testing.T) {
	dir := t.TempDir()
	prompts, out := filepath.Join(dir, "prompts.txt"), filepath.Join(dir, "out")
	require.NoError(t, os.WriteFile(prompts, []byte("The cat\nOnce upon a time\n"), 0o666))
	args := []string{"quantize", embedded, "-o", out, "--preset", "plain", "--axis", "oc", "--skip", `layers\.[1-3]`, "--calib", "self", "--seq-len", "32", "-q", "--json"}
	o := succeed(t, append(args, "--calib-tokens", "100", "--calib-prompts", prompts)...)
	require.Contains(t, o.stdout, `"calibration_tokens":128`)
	require.FileExists(t, out+".text.json")
	o = succeed(t, "quantize", embedded, "-o", out+"2", "--preset", "plain", "--axis", "oc", "--skip", `layers\.[1-3]`, "--calib-ids", out+".text.json", "--seq-len", "32", "-q")
	require.Equal(t, tree(t, out), tree(t, out+"2"))

	for want, more := range map[string][]string{
		"--calib-tokens is for --calib self": {"--calib", calibration, "--calib-tokens", "5"},
		"absent.txt":                         {"--calib", "self", "--calib-prompts", "absent.txt"},
		"-3 tokens":                          {"--calib", "self", "--calib-tokens", "-3"},
	} {
		o := runCommand(t, append([]string{"quantize", embedded, "-o", out + "3"}, more...)...)
		require.NotEqual(t, exitOK, o.code)
		requireOneLine(t, o, want)
	}
}
