package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/rotation"
)

// TestRotate: a rotated model predicts as before, and quantize takes it.
func TestRotate(t *testing.T) {
	dir, text := t.TempDir(), shortText(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	want := perplexity(t, embedded, text)
	o := succeed(t, "rotate", embedded, "-o", at("hadamard"), "--rotation", "hadamard", "--dtype", "float32", "-q")
	require.Equal(t, at("hadamard")+": rotation hadamard\n", o.stdout)
	require.InEpsilon(t, want, perplexity(t, at("hadamard"), text), 1e-6)

	o = succeed(t, "rotate", embedded, "-o", at("auto"), "--rotation", "auto", "--calib", text, "--seq-len", "64", "--samples", "8", "--bits", "2", "--json", "-q")
	var r struct {
		Rotation rotation.Kind
		Trials   []rotation.Trial
	}
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Len(t, r.Trials, 3)
	for _, trial := range r.Trials {
		require.Positive(t, trial.KL)
	}
	require.InEpsilon(t, want, perplexity(t, at("auto"), text), 1e-3) // rounded to BF16

	succeed(t, "quantize", at("hadamard"), "-o", at("packed"), "--method", "rtn", "--axis", "oc", "--bits", "8", "-q")
	require.InEpsilon(t, want, perplexity(t, at("packed"), text), 1e-2)

	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--rotation", "hadamard"}, "no output given"},
		{[]string{"-o", at("out")}, "no rotation given"},
		{[]string{"-o", at("out"), "--rotation", "klt"}, "no text given"},
		{[]string{"-o", at("out"), "--rotation", "spin"}, `unknown rotation "spin"`},
		{[]string{"-o", at("out"), "--rotation", "hadamard", "--bits", "9"}, "bits 9, want 2 to 8"},
	} {
		o := runCommand(t, append([]string{"rotate", embedded}, tt.args...)...)
		require.Equal(t, exitUsage, o.code, tt.want)
		requireOneLine(t, o, tt.want)
	}
	o = runCommand(t, "rotate", "../../testdata/architectures/gpt2", "-o", at("out"), "--rotation", "hadamard")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "transformer.ln_f.weight is a LayerNorm")
	require.NoFileExists(t, at("out"))
}
