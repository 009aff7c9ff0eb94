package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/modelpack"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/modelpack/registrytest"
)

func TestPush(t *testing.T) {
	r := registrytest.New(t)
	o := runCommand(t, "push", embedded, r.Host+"/me/tiny:dense", "--plain-http", "--json")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Contains(t, o.stderr, "uploading to "+r.Host+"/me/tiny:dense")
	var p modelpack.Pushed
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &p))
	require.Equal(t, r.Host+"/me/tiny:dense", p.Reference)
	require.Contains(t, r.Manifests, "dense")
	require.Contains(t, r.Manifests, p.Digest.String())
	require.Equal(t, "model.safetensors", p.Layers[0].Path)

	file := filepath.Join(t.TempDir(), "tiny.gguf")
	require.Equal(t, exitOK, runCommand(t, "quantize", embedded, "-o", file, "--format", "gguf", "--gguf-type", "q4_k_m", "--method", "rtn", "-q").code)
	o = runCommand(t, "push", file, r.Host+"/me/tiny", "--plain-http", "-q")
	require.Equal(t, exitOK, o.code, o.stderr)
	require.Regexp(t, `^`+r.Host+`/me/tiny:latest@sha256:[0-9a-f]{64}: 1 files, 1\.\d+ MB, of which 1\.\d+ MB were uploaded\n$`, o.stdout)
	require.Empty(t, o.stderr)
	manifest := string(r.Manifests["latest"])
	require.Contains(t, manifest, `"tiny.gguf"`)
	require.Contains(t, manifest, `"application/vnd.cncf.model.manifest.v1+json"`)

	o = runCommand(t, "push", file, "tiny", "--plain-http", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "invalid reference")
	o = runCommand(t, "push", t.TempDir(), r.Host+"/me/tiny", "--plain-http", "-q")
	require.Equal(t, exitError, o.code)
	o = runCommand(t, "push", file)
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "want a model and where to push it to")
}

func TestPushInterrupted(t *testing.T) {
	r := registrytest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.Cancel = cancel
	var stderr strings.Builder
	a := &app{args: []string{"push", embedded, r.Host + "/me/tiny:x", "--plain-http", "-q"}, stdin: strings.NewReader(""), stdout: &stderr, stderr: &stderr}
	require.Equal(t, exitInterrupted, a.run(ctx))
	require.Equal(t, "lowbit: interrupted; the same command goes on, with what the registry has kept\n", stderr.String())
	require.Empty(t, r.Manifests)
}
