package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSweep: every combination is made, what a format does not hold is said and left out, and the
// same command takes up what is there.
func TestSweep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "grid")
	args := []string{"sweep", embedded, "-o", dir, "--bits", "3,4", "--group-size", "32,64", "--format", "awq,compressed-tensors", "--method", "rtn", "--axis", "oc", "--skip", "o_proj", "--eval", shortText(t), "--window", "128", "-q"}
	o := succeed(t, args...)
	require.Regexp(t, `(?m)^\* +format-awq_bits-4_group-size-64 +`, o.stdout)
	require.Contains(t, o.stdout, "\nformat-awq_bits-3_group-size-32: left out: ")
	require.Contains(t, o.stdout, "\nformat-awq_bits-3_group-size-64: left out: ")
	var r sweepResult
	read := func() {
		data, err := os.ReadFile(filepath.Join(dir, sweepFile))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &r))
	}
	read()
	require.Len(t, r.Variants, 8)
	made := 0
	for _, v := range r.Variants {
		if v.Refused != "" {
			continue
		}
		made++
		require.Positive(t, *v.Result.KL)
		require.Less(t, v.Result.Bytes, r.Source.Bytes)
		require.DirExists(t, filepath.Join(dir, v.Name))
		require.Contains(t, v.Flags, "--skip=o_proj")
	}
	require.Equal(t, 6, made)
	require.FileExists(t, filepath.Join(dir, "sweep.svg"))

	// What is missing is made again, the others are left alone.
	const again, left = "format-awq_bits-4_group-size-64", "format-awq_bits-4_group-size-32"
	before, err := os.Stat(filepath.Join(dir, left, "model.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(dir, again)))
	require.Equal(t, o.stdout[:200], succeed(t, args...).stdout[:200])
	require.DirExists(t, filepath.Join(dir, again))
	after, err := os.Stat(filepath.Join(dir, left, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, before.ModTime(), after.ModTime())

	bad := runCommand(t, append(args, "--skip", "q_proj")...)
	require.Equal(t, exitError, bad.code)
	requireOneLine(t, bad, "by an earlier sweep")
	bad = runCommand(t, "sweep", embedded, "-o", dir)
	require.Equal(t, exitUsage, bad.code)
	bad = runCommand(t, "sweep", embedded, "-o", dir, "--bits", "nine", "--eval", heldout)
	require.Equal(t, exitUsage, bad.code)
}

// TestSweepAlike: what settings have in common is found once, and changes nothing.
func TestSweepAlike(t *testing.T) {
	for _, setting := range [][]string{{"--preset", "fast"}, {"--curvature=on"}} {
		how := append(setting, "--group-size", "64", "--calib", calibration, "--samples", "4", "--skip", `layers\.[023]|mlp|q_proj`)
		dir := filepath.Join(t.TempDir(), "grid")
		o := succeed(t, append([]string{"sweep", embedded, "-o", dir, "--bits", "3,4", "--eval", shortText(t), "--window", "128", "--progress", "plain"}, how...)...)
		first, second, ok := strings.Cut(o.stderr, "\nbits-4\n")
		require.True(t, ok, o.stderr)
		require.Equal(t, setting[0] == "--curvature=on", strings.Contains(first, "curvature: "), first)
		require.NotContains(t, second, "curvature: ")
		for _, bits := range []string{"3", "4"} {
			out := filepath.Join(t.TempDir(), "alone")
			succeed(t, append([]string{"quantize", embedded, "-o", out, "--bits", bits, "-q"}, how...)...)
			want, err := os.ReadFile(filepath.Join(out, "model.safetensors"))
			require.NoError(t, err)
			got, err := os.ReadFile(filepath.Join(dir, "bits-"+bits, "model.safetensors"))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), bits)
		}
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 4, "variants, sweep.json, sweep.svg")
	}
}
