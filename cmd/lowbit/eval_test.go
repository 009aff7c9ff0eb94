package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEval(t *testing.T) {
	text := shortText(t)
	o := succeed(t, "eval", embedded, "--text", text, "--text", text, "--window", "128", "--json", "-q")
	require.Empty(t, o.stderr)
	var r map[string]float64
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Equal(t, 128., r["window"])
	require.Equal(t, r["windows"]*127, r["tokens"])
	require.InDelta(t, 11, r["perplexity"], 3)
	require.NotContains(t, r, "kl")
	plain := r["perplexity"]

	o = succeed(t, "eval", embedded, "--text", text, "--text", text, "--window", "128", "--json", "-q", "--against", embedded)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.InDelta(t, 0, r["kl"], 1e-12)
	require.Equal(t, plain, r["perplexity"])

	o = succeed(t, "eval", embedded, "--text", text, "--window", "128", "--per-document")
	require.Regexp(t, `^perplexity +\d+\.\d{4}\ntokens +\d+ scored, in \d+ windows of 128\n$`, o.stdout)
}

// TestEvalOfQuantized compares a quantized folder with its source.
func TestEvalOfQuantized(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	succeed(t, "quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--bits", "8", "-q")
	o := succeed(t, "eval", out, "--text", shortText(t), "--against", embedded, "-q")
	require.Contains(t, o.stdout, "nats a token from "+embedded)
	require.Regexp(t, `KL divergence +0\.00\d+ `, o.stdout)
}

func TestEvalBadInput(t *testing.T) {
	o := runCommand(t, "eval", embedded, "--text", "absent.txt")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent.txt")
	o = runCommand(t, "eval", "absent", "--text", heldout)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")
	o = runCommand(t, "eval", embedded, "--text", heldout, "--against", "absent")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")

	dir := badModel(t, func(dir string) { poison(t, dir, "model.norm.weight", 0x7fc0) })
	o = runCommand(t, "eval", dir, "--text", shortText(t), "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "NaN")
}
