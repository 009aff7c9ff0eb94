package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTextsOfPeople: chats, a folder, packed standard input, and weights.
func TestTextsOfPeople(t *testing.T) {
	data, err := os.ReadFile(heldout)
	require.NoError(t, err)
	dir := t.TempDir()
	plain, chats := filepath.Join(dir, "a@2"), filepath.Join(dir, "texts", "chats.jsonl")
	require.NoError(t, os.Mkdir(filepath.Dir(chats), 0o777))
	require.NoError(t, os.WriteFile(plain, data[:4000], 0o666))
	require.NoError(t, os.WriteFile(chats, fmt.Appendf(nil, "{\"messages\": [{\"role\": \"user\", \"content\": %q}]}\n", data[:4000]), 0o666))
	model := filepath.Join(dir, "model")
	require.NoError(t, os.CopyFS(model, os.DirFS(embedded)))
	require.NoError(t, os.WriteFile(filepath.Join(model, "chat_template.jinja"), []byte("{% for m in messages %}{{ m.content }}{% endfor %}"), 0o666))

	// The same text as a file, as a chat in a folder, and packed through standard input.
	want := succeed(t, "eval", model, "--text", plain, "--window", "64", "-q").stdout
	require.Equal(t, want, succeed(t, "eval", model, "--text", filepath.Dir(chats), "--window", "64", "-q").stdout)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(data[:4000])
	require.NoError(t, err)
	require.NoError(t, z.Close())
	c, stdout, stderr := command(t, "eval", model, "--text", "-", "--window", "64", "-q")
	c.Stdin = &packed
	require.NoError(t, c.Run(), stderr.String())
	require.Equal(t, want, stdout.String())

	// A weight, and a file whose name looks like one.
	common := []string{"quantize", model, "--method", "rtn", "--axis", "ada", "--samples", "2", "--seq-len", "64", "-q"}
	for i, calib := range []string{plain + "@3", plain} {
		succeed(t, append(common, "-o", filepath.Join(dir, fmt.Sprint("out", i)), "--calib", calib, "--calib", chats+"@1")...)
	}
	o := runCommand(t, append(common, "-o", filepath.Join(dir, "no"), "--calib", plain+"@0")...)
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "weights of texts [0], want positive numbers")
	o = runCommand(t, "eval", model, "--text", plain+"@3")
	require.Equal(t, exitUsage, o.code)
	requireOneLine(t, o, "weights of texts are for calibration")
	o = runCommand(t, "eval", model, "--text", chats, "--field", "text")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, chats+`: line 1: the JSON object has no "text"; it has ["messages"]`)
}
