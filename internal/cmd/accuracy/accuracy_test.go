package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/golden"
)

func load(t *testing.T) (rowSet, referenceSet) {
	t.Helper()
	rows, err := readRows(filepath.Join(golden.Root(), "docs", "accuracy.jsonl"))
	require.NoError(t, err)
	refs, err := readReferences(filepath.Join(golden.Root(), "testdata", "golden", "perplexity.json"))
	require.NoError(t, err)
	return rows, refs
}

// docs/accuracy.md is what its measurements say.
func TestPage(t *testing.T) {
	rows, refs := load(t)
	page, err := render(rows, refs)
	require.NoError(t, err)
	doc, err := os.ReadFile(filepath.Join(golden.Root(), "docs", "accuracy.md"))
	require.NoError(t, err)
	want := strings.Split(string(page), "\n")
	for i, line := range strings.Split(string(doc), "\n") {
		require.Less(t, i, len(want), "docs/accuracy.md is too long")
		require.Equal(t, want[i], line, "docs/accuracy.md:%d is stale: go run ./internal/cmd/accuracy -model none", i+1)
	}
	require.Equal(t, len(page), len(doc))
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(strings.Trim(line, "|\n"), "|")
		if len(cells) > 2 && strings.HasPrefix(line, "| ") {
			require.NotEmpty(t, strings.TrimSpace(strings.Join(cells[1:], "")), "a row without any measurement: %s", cells[0])
		}
	}
}

// Every measurement is of something that this program still measures.
func TestRowsAreKnown(t *testing.T) {
	rows, _ := load(t)
	for k := range rows {
		known := false
		for _, m := range models {
			for _, v := range methods {
				known = known || k.model == m.name && k.method == v.name
			}
		}
		require.True(t, known, "%v", k)
	}
}

func TestReadErrors(t *testing.T) {
	_, err := readReferences(filepath.Join(t.TempDir(), "none.json"))
	require.ErrorIs(t, err, os.ErrNotExist)
	bad := filepath.Join(t.TempDir(), "bad")
	require.NoError(t, os.WriteFile(bad, []byte("{}\n{\n"), 0o644))
	_, err = readReferences(bad)
	require.ErrorContains(t, err, bad)
	_, err = readRows(bad)
	require.ErrorContains(t, err, bad+":2")
	rows, err := readRows(bad + ".none")
	require.NoError(t, err)
	require.Empty(t, rows, "nothing measured yet")
}
