package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/measure"
)

// TestEvalTask: questions in place of a text.
func TestEvalTask(t *testing.T) {
	const task = "../../checkpoint/measure/testdata/questions.jsonl"
	o := succeed(t, "eval", embedded, "--task", task, "-q")
	require.Regexp(t, `^acc +0\.3750 ± 0\.\d{4}\nacc_norm +0\.7083 ± 0\.\d{4}\nquestions +24\n$`, o.stdout)
	var a measure.Answers
	require.NoError(t, json.Unmarshal([]byte(succeed(t, "eval", embedded, "--task", task, "-q", "--json").stdout), &a))
	require.Len(t, a.LogLikelihoods, 24)
	bad := runCommand(t, "eval", embedded, "--task", task, "--text", heldout)
	require.Equal(t, exitUsage, bad.code)
	bad = runCommand(t, "eval", embedded, "--task", heldout)
	require.Equal(t, exitError, bad.code)
	requireOneLine(t, bad, heldout+": line 1: want a JSON object")
}
