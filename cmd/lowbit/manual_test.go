package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/manual"
)

var updateReference = flag.Bool("update", false, "write docs/reference.md")

// TestReference holds docs/reference.md to the command.
func TestReference(t *testing.T) {
	const page = "../../docs/reference.md"
	var b bytes.Buffer
	require.NoError(t, manual.Markdown(&b, (&app{}).command()))
	if *updateReference {
		require.NoError(t, os.WriteFile(page, b.Bytes(), 0o666))
	}
	written, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, b.String(), string(written), "docs/reference.md is stale: go test ./cmd/lowbit -run TestReference -update")
}

// TestManual: there is a page for every verb, the same ones whenever they are written.
func TestManual(t *testing.T) {
	one, two := filepath.Join(t.TempDir(), "man"), filepath.Join(t.TempDir(), "man")
	succeed(t, "manual", one)
	succeed(t, "manual", two)
	for _, c := range (&app{}).command().Commands() {
		if c.Hidden {
			continue
		}
		name := "lowbit-" + c.Name() + ".1"
		page, err := os.ReadFile(filepath.Join(one, name))
		require.NoError(t, err)
		require.Contains(t, string(page), `.TH "LOWBIT-`)
		again, err := os.ReadFile(filepath.Join(two, name))
		require.NoError(t, err)
		require.Equal(t, page, again)
	}
	page, err := os.ReadFile(filepath.Join(one, "lowbit-quantize.1"))
	require.NoError(t, err)
	require.Contains(t, string(page), "--group-size")
	require.NotContains(t, string(page), "Auto generated")
}
