package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/internal/memory"
)

func TestInspect(t *testing.T) {
	o := succeed(t, "inspect", embedded)
	require.Contains(t, o.stdout, "llama")
	require.Regexp(t, `blocks +4 of width 256, MLP 512`, o.stdout)
	require.Regexp(t, `heads +8 query, 4 key/value, of width 32`, o.stdout)
	require.Regexp(t, `parameters +2623744`, o.stdout)
	require.Regexp(t, `model.embed_tokens.weight +\[1024 256\] +BF16 +524 kB`, o.stdout)

	var i lowbit.Info
	o = succeed(t, "inspect", embedded, "--json")
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &i))
	require.Equal(t, int64(2623744), i.Parameters)
	require.Equal(t, 2*i.Parameters, i.Bytes)
	require.Len(t, i.Tensors, 2+4*9)
}

// TestInspectUnsupported: a model that cannot be run can still be looked at.
func TestInspectUnsupported(t *testing.T) {
	dir := badModel(t, func(dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "T5ForConditionalGeneration")
		replaceIn(t, filepath.Join(dir, "config.json"), `"llama"`, `"t5"`)
	})
	o := succeed(t, "inspect", dir)
	require.Contains(t, o.stdout, "cannot run")
	require.Contains(t, o.stdout, "T5ForConditionalGeneration")
	require.Contains(t, o.stdout, "2623744")
}

// TestInspectAnything: no configuration, one that is refused, and a quantization
// that cannot be read.
func TestInspectAnything(t *testing.T) {
	for want, change := range map[string]func(dir string){
		"no config.json": func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "config.json"))) },
		"want [999 256]": func(dir string) {
			replaceIn(t, filepath.Join(dir, "config.json"), `"vocab_size": 1024`, `"vocab_size": 999`)
		},
		`quant_method "magic"`: func(dir string) {
			replaceIn(t, filepath.Join(dir, "config.json"), `"vocab_size"`, `"quantization_config": {"quant_method": "magic"}, "vocab_size"`)
		},
	} {
		o := succeed(t, "inspect", badModel(t, change))
		require.Regexp(t, "cannot run .*"+regexp.QuoteMeta(want), o.stdout)
		require.Contains(t, o.stdout, "2623744")
	}
}

func TestInspectBadInput(t *testing.T) {
	o := runCommand(t, "inspect", "absent")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "absent")

	empty := t.TempDir()
	o = runCommand(t, "inspect", empty)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, empty)

	file := filepath.Join(empty, "file")
	require.NoError(t, os.WriteFile(file, []byte("hello"), 0o666))
	o = runCommand(t, "inspect", file)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, file)
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 1234567: "1.23 MB", 45678901: "45.7 MB", 999600: "1.00 MB", 2.2e9: "2.20 GB"} {
		require.Equal(t, want, memory.Decimal(n))
	}
}
