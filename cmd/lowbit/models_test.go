package main

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/hubtest"
	"github.com/golowbit/lowbit/safetensors"
)

// hubWith serves the model of this repository to the command.
func hubWith(t *testing.T, name string) (h *hubtest.Hub, home string) {
	t.Helper()
	h, home = hubtest.New(t, name, hubtest.Folder(t, embedded)), t.TempDir()
	for _, key := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} {
		t.Setenv(key, "")
	}
	t.Setenv("HF_HOME", home)
	t.Setenv("HF_ENDPOINT", h.URL)
	return h, home
}

// TestHubNames gives verbs a model by its name: what comes out is what the folder gives.
func TestHubNames(t *testing.T) {
	h, home := hubWith(t, "tiny/llama-2m")
	dir := t.TempDir()
	named, local := filepath.Join(dir, "named"), filepath.Join(dir, "local")
	o := succeed(t, "quantize", "tiny/llama-2m", "-o", named, "--method", "rtn", "--axis", "oc")
	require.Contains(t, o.stderr, "loading tiny/llama-2m: ")
	succeed(t, "quantize", embedded, "-o", local, "--method", "rtn", "--axis", "oc", "-q")
	require.Equal(t, tensorSum(t, local), tensorSum(t, named))

	card, err := os.ReadFile(filepath.Join(named, "README.md"))
	require.NoError(t, err)
	require.Regexp(t, `^---\nbase_model: tiny/llama-2m\nbase_model_relation: quantized\nlibrary_name: lowbit\npipeline_tag: text-generation\ntags:\n    - lowbit\n    - 4-bit\n---\n\n# llama-2m, quantized\n`, string(card))
	require.Contains(t, string(card), "\n## The model card of tiny/llama-2m\n\n# tinyllama-2m\n")
	f, err := safetensors.Open(filepath.Join(named, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt", "base_model": "tiny/llama-2m", "base_model_commit": slices.Collect(maps.Keys(h.Commits))[0]}, f.Metadata())
	require.NoError(t, f.Close())
	f, err = safetensors.Open(filepath.Join(local, "model.safetensors"))
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
	require.NoError(t, f.Close())

	before := len(h.Requests())
	t.Setenv("HF_HUB_OFFLINE", "1")
	o = succeed(t, "inspect", "tiny/llama-2m@main")
	require.Contains(t, o.stdout, filepath.Join(home, "hub", "models--tiny--llama-2m", "snapshots"))
	o = succeed(t, "compare", "tiny/llama-2m", named, "--text", shortText(t), "--window", "128", "-q")
	require.Regexp(t, `(?m)^tiny/llama-2m +dense `, o.stdout)
	o = succeed(t, "eval", named, "--against", "tiny/llama-2m", "--text", shortText(t), "--window", "128", "-q")
	require.Contains(t, o.stdout, "nats a token from tiny/llama-2m, whose")
	succeed(t, "check", named, "tiny/llama-2m", "-q")
	succeed(t, "convert", "tiny/llama-2m", "-o", filepath.Join(dir, "dense"), "--format", "dense", "-q")
	succeed(t, "plan", "tiny/llama-2m", "--method", "rtn", "--axis", "oc")
	succeed(t, "sweep", "tiny/llama-2m", "-o", filepath.Join(dir, "grid"), "--method", "rtn", "--axis", "oc", "--bits", "4,8", "--eval", shortText(t), "--window", "128", "-q")
	require.Len(t, h.Requests(), before)

	o = runCommand(t, "inspect", "tiny/other")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "tiny/other: neither a file or folder here, nor complete in the hub's cache")
	t.Setenv("HF_HUB_OFFLINE", "0")
	o = runCommand(t, "inspect", "tiny/other")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "tiny/other: no file or folder here, and no model at "+h.URL)
}

// TestHubInterrupted stops the command while it loads; what has come is not loaded again.
func TestHubInterrupted(t *testing.T) {
	h, home := hubWith(t, "tiny/llama-2m")
	h.Cut, h.Cuts = map[string]int{"model.safetensors": 1_000_000}, map[string]int{"model.safetensors": 1000}
	h.Slow = 300 * time.Millisecond
	c, _, stderr := command(t, "inspect", "tiny/llama-2m")
	require.NoError(t, c.Start())
	require.Eventually(t, func() bool {
		left, _ := filepath.Glob(filepath.Join(home, "hub", "models--tiny--llama-2m", "blobs", "*.incomplete"))
		for _, path := range left {
			if st, err := os.Stat(path); err == nil && st.Size() >= 1_000_000 {
				return true
			}
		}
		return false
	}, 30*time.Second, time.Millisecond)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	require.Error(t, c.Wait())
	require.Equal(t, exitInterrupted, c.ProcessState.ExitCode(), stderr.String())
	require.Contains(t, stderr.String(), "interrupted; what was loaded is kept in the hub's cache")

	before := len(h.Requests())
	h.Cuts = nil
	succeed(t, "inspect", "tiny/llama-2m")
	require.Regexp(t, `CDN GET model.safetensors bytes=\d{7,}-`, strings.Join(h.Requests()[before:], "\n"))
}

// tensorSum is the sum of what the file of a folder holds behind its header.
func tensorSum(t *testing.T, dir string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	return sha256.Sum256(data[8+binary.LittleEndian.Uint64(data):])
}
