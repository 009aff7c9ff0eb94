package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// perplexity measures a model through the command.
func perplexity(t *testing.T, model, text string) float64 {
	t.Helper()
	var r struct{ Perplexity float64 }
	o := succeed(t, "eval", model, "--tokenizer", embedded, "--text", text, "--json", "-q")
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	return r.Perplexity
}

// TestConvert goes through the formats; the model stays the same.
func TestConvert(t *testing.T) {
	dir, text := t.TempDir(), shortText(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	succeed(t, "quantize", embedded, "-o", at("lowbit"), "--method", "rtn", "--axis", "oc", "--sym", "-q")
	want := perplexity(t, at("lowbit"), text)
	from := "lowbit"
	for _, format := range []string{"gptq_v2", "compressed-tensors", "gguf", "awq", "lowbit"} {
		to := format + " again"
		o := succeed(t, "convert", at(from), "-o", at(to), "--format", format, "-q")
		require.Contains(t, o.stdout, "28 layers")
		require.InEpsilon(t, want, perplexity(t, at(to), text), 1e-6, format)
		if format != "gguf" { // which has lost where its groups of 128 were
			from = to
		}
	}
	o := succeed(t, "convert", at("lowbit"), "-o", at("dense"), "--format", "dense", "--json", "-q")
	require.Contains(t, o.stdout, `"format":"dense"`)
	require.InEpsilon(t, want, perplexity(t, at("dense"), text), 1e-3) // rounded to BF16
}

func TestConvertRefuses(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	o := runCommand(t, "convert", embedded, "-o", out, "--format", "gptq")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "nothing in the model is quantized")

	ic := filepath.Join(dir, "ic")
	succeed(t, "quantize", embedded, "-o", ic, "--method", "rtn", "--axis", "ic", "-q")
	o = runCommand(t, "convert", ic, "-o", out, "--format", "gptq")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "axis ic does not fit")
	o = runCommand(t, "convert", ic, "-o", ic, "--format", "lowbit")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "exists already")
	require.NoFileExists(t, out)
	require.NoFileExists(t, out+".partial")
}
