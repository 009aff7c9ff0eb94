package main

import (
	"encoding/csv"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
)

// TestCompare: a table, JSON and CSV say the same of a folder and a GGUF file.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	folder, file := filepath.Join(dir, "out"), filepath.Join(dir, "out.gguf")
	succeed(t, "quantize", embedded, "-o", folder, "--method", "rtn", "--axis", "oc", "-q")
	succeed(t, "quantize", embedded, "-o", file, "--method", "rtn", "--axis", "oc", "--target", "llama.cpp", "-q")
	args := []string{"compare", embedded, folder, file, "--text", shortText(t), "--window", "128", "-q"}
	var all []lowbit.Compared
	require.NoError(t, json.Unmarshal([]byte(succeed(t, append(args, "--json")...).stdout), &all))
	require.Len(t, all, 3)
	require.Equal(t, []string{"dense", "lowbit", "gguf"}, []string{all[0].Format, all[1].Format, all[2].Format})
	rows, err := csv.NewReader(strings.NewReader(succeed(t, append(args, "--csv")...).stdout)).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 4)
	require.Equal(t, "kl_mean", rows[0][6])
	require.Empty(t, rows[1][6])
	require.NotEmpty(t, rows[3][16])
	o := succeed(t, args...)
	require.Regexp(t, `(?m)^model +format +size +bits +perplexity +KL mean +median +99 % +same top$`, o.stdout)
	require.Regexp(t, `(?m)^\S+out\.gguf +gguf +\S+ MB +\d\.\d\d +\d+\.\d{4} ± 0\.\d{4} +0\.\d{5} ± 0\.\d{5} +0\.\d{5} +\d\.\d{5} +\d\d\.\d\d %$`, o.stdout)
	o = runCommand(t, "compare", embedded, "--text", heldout)
	require.Equal(t, exitUsage, o.code)
	o = runCommand(t, "compare", embedded, "absent", "--text", heldout)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")
}
