package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRulesFile: rules come from YAML and JSON alike, behind those of flags, and what
// is wrong with them is told with file and place.
func TestRulesFile(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "rules")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	args := []string{"quantize", embedded, "--method", "rtn", "--axis", "oc", "--print-config"}
	want := succeed(t, append(args, "--rule", `q_proj$: bits=8,group=32`, "--rule", `layers\.1\.: sym`)...).stdout
	require.Contains(t, want, `q_proj$: bits=8,group=32,layers\.1\.: sym=true`)
	require.Regexp(t, `layers\.1\.self_attn\.q_proj +\[256 256\] +8 bits, groups of 32`, want)
	for _, text := range []string{
		"- match: q_proj$\n  bits: 8\n  group: 32\n- match: layers\\.1\\.\n  sym: true\n",
		"\ufeff" + `[{"match": "q_proj$", "bits": 8, "group": 32}, {"match": "layers\\.1\\.", "sym": true}]`,
	} {
		require.Equal(t, want, succeed(t, append(args, "--rules", file(text))...).stdout)
	}
	require.Equal(t, want, succeed(t, append(args, "--rules", file("- {match: 'layers\\.1\\.', sym: true}"), "--rule", `q_proj$: bits=8,group=32`)...).stdout)
	for text, message := range map[string]string{
		"":                           "no rules",
		"bits: 8":                    "want a list of rules",
		"- match: q\n  bots: 8":      `number 1: rule "q": unknown key "bots"`,
		"- bits: 8":                  "no expression",
		"- match: q\n  bits: [8]":    "want a list of rules",
		"- match: q\n  bits:":        "number 1",
		"- match: q\n  match: q":     "already defined",
		"[]\n---\n[]":                "more than one document",
		"- match: nothing\n  sym: 1": "matches no layer's name",
	} {
		o := runCommand(t, append(args, "--rules", file(text))...)
		require.Equal(t, exitUsage, o.code, text)
		requireOneLine(t, o, message)
	}
	o := runCommand(t, append(args, "--rules", "no-such-file")...)
	require.Equal(t, exitUsage, o.code)
}
