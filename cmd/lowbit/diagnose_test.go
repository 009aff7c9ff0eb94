package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDiagnose(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.html")
	text := shortText(t)
	o := succeed(t, "diagnose", embedded, "--text", text, "--text", "random", "--samples", "1", "--seq-len", "32", "--method", "rtn", "--report", page)
	require.Regexp(t, `(?m)^random +32 +\d+ % `, o.stdout)
	require.Contains(t, o.stdout, "rtn, 4 bits: perplexity on what is held out of")
	require.Contains(t, o.stderr, "quantizing on random")
	data, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(data), "Quantized on one text, read on another")

	c, stdout, stderr := command(t, "diagnose", embedded, "--text", "-", "--text", text, "--samples", "1", "--seq-len", "32", "--no-quantize", "--json", "-q")
	file, err := os.Open(heldout)
	require.NoError(t, err)
	defer file.Close()
	c.Stdin = file
	require.NoError(t, c.Run(), stderr.String())
	var r struct {
		Model string
		Texts []struct{ Name string }
	}
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &r))
	require.Equal(t, embedded, r.Model)
	require.Equal(t, "standard input", r.Texts[1].Name)
	require.NotContains(t, stdout.String(), "perplexities")
	require.Empty(t, stderr.String())
}

func TestDiagnoseRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"no text given":            {},
		"have no weights":          {"--text", heldout + "@2"},
		"bits 11":                  {"--text", heldout, "--bits", "11"},
		"unknown method":           {"--text", heldout, "--method", "awq"},
		"the model's context is 2": {"--text", heldout, "--seq-len", "9999"},
	} {
		o := runCommand(t, append([]string{"diagnose", embedded}, args...)...)
		require.Equal(t, exitUsage, o.code, want)
		requireOneLine(t, o, want)
	}
	o := runCommand(t, "diagnose", embedded, "--text", "absent.txt")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent.txt")
}
