package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
)

// TestEvalTextFirst: what is wrong with the text to measure on is told before
// any layer is read, and nothing is left.
func TestEvalTextFirst(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	unknown := badModel(t, func(dir string) {
		replaceIn(t, filepath.Join(dir, "config.json"), "LlamaForCausalLM", "UnknownForCausalLM")
		replaceIn(t, filepath.Join(dir, "config.json"), `"llama"`, `"unknown"`)
	})
	speechless := badModel(t, func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer.json"))) })
	for _, c := range []struct {
		name, model, text string
		more              []string
		code              int
		want              string
	}{
		{"short", embedded, file("short", "once upon a time"), nil, exitError, "short: 4 tokens of text, want at least one window of 256"},
		{"empty", embedded, file("empty", ""), nil, exitError, "want at least one window of 256"},
		{"binary", embedded, filepath.Join(embedded, "model.safetensors"), nil, exitError, "not UTF-8"},
		{"absent", embedded, filepath.Join(dir, "absent"), nil, exitError, "no such file"},
		{"records without the field", embedded, file("r.jsonl", `{"story": "x"}`), nil, exitError, `has no "text"`},
		{"long window", embedded, heldout, []string{"--window", "512"}, exitUsage, "context is 256"},
		{"long text", embedded, heldout, []string{"--max-text", "1000"}, exitError, "more than 1000 bytes"},
		{"no decoder", unknown, heldout, nil, exitUsage, "there is no decoder"},
		{"no tokenizer", speechless, heldout, nil, exitError, "tokenizer"},
		{"no memory", embedded, heldout, []string{"--memory", "150MiB"}, exitError, "not enough memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, verb := range []string{"quantize", "plan"} {
				out := filepath.Join(t.TempDir(), "out")
				o := runCommand(t, append([]string{verb, c.model, "-o", out, "--method", "rtn", "--axis", "oc", "--eval", c.text}, c.more...)...)
				require.Equal(t, c.code, o.code, o.stderr)
				requireOneLine(t, o, c.want) // no settings: no work was begun
				require.NoFileExists(t, out)
				require.NoDirExists(t, out+".partial")
			}
		})
	}
}

// TestEvalBeforePublishing: a result that cannot be measured has not got its name;
// without --eval a resume gives it that.
func TestEvalBeforePublishing(t *testing.T) {
	model := badModel(t, func(dir string) { poison(t, dir, "model.norm.weight", 0x7f7f) }) // finite, for the head too large
	for _, format := range []string{"lowbit", "gguf"} {
		out := filepath.Join(t.TempDir(), "out")
		args := quick(out, "--format", format, "--bits", "4", "--group-size", "32", "--axis", "oc", "--samples", "1", "--skip", `layers\.[1-3]`, "-q")
		args[1] = model
		o := runCommand(t, append(args, "--eval", shortText(t))...)
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "out was not written: the result could not be measured: "+out+": not finite: the head gives ")
		require.Contains(t, o.stderr, "(7 of 7 layers are finished and kept in "+out+".partial; once the cause is gone, the same command with --resume goes on, and without --eval it ends without measuring)")
		require.NoFileExists(t, out)
		succeed(t, append(args, "--resume")...)
		require.NoDirExists(t, out+".partial")

		whole := filepath.Join(t.TempDir(), "out")
		args[3] = whole
		succeed(t, args...)
		require.Equal(t, tree(t, whole), tree(t, out))
	}
	// Layers that are not kept are not promised.
	out := filepath.Join(t.TempDir(), "out")
	o := runCommand(t, "quantize", model, "-o", out, "--method", "rtn", "--axis", "oc", "--eval", shortText(t), "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "out was not written: the result could not be measured")
	require.NotContains(t, o.stderr, "--resume")
	require.NoDirExists(t, out)
	require.NoDirExists(t, out+".partial")
}

// TestEvalFigures: what quantize measures before the result has its name is what
// eval measures afterwards, also where standard input was read before a second
// attempt at the layers.
func TestEvalFigures(t *testing.T) {
	large := badModel(t, func(dir string) { poison(t, dir, "model.layers.0.self_attn.q_proj.weight", 0x49f4) }) // 2e6: too large for a scale
	text := shortText(t)
	data, err := os.ReadFile(text)
	require.NoError(t, err)
	for _, model := range []string{embedded, large} {
		out := filepath.Join(t.TempDir(), "out")
		c, stdout, stderr := command(t, "quantize", model, "-o", out, "--method", "rtn", "--axis", "oc", "--eval", "-", "--window", "128", "--json", "-q")
		c.Stdin = bytes.NewReader(data)
		require.NoError(t, c.Run(), stderr.String())
		var r lowbit.Report
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &r))
		require.Equal(t, model == large, bytes.Contains(stderr.Bytes(), []byte("left dense")), stderr)
		var e lowbit.Evaluation
		o := succeed(t, "eval", out, "--text", text, "--against", model, "--window", "128", "--json", "-q")
		require.NoError(t, json.Unmarshal([]byte(o.stdout), &e))
		require.Equal(t, &e, r.Evaluation)
	}
}

// TestNoRoom: a result for which the disk surely has no room is refused before
// any work, with the figures. The model's file has a hole instead of weights.
func TestNoRoom(t *testing.T) {
	const rows, cols = 1 << 20, 1 << 21 // 4 TiB of bfloat16, 1 TiB of codes
	model := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.Mkdir(model, 0o777))
	header := fmt.Appendf(nil, `{"up_proj.weight":{"dtype":"BF16","shape":[%d,%d],"data_offsets":[0,%d]}}`, rows, cols, int64(2*rows*cols))
	f, err := os.Create(filepath.Join(model, "model.safetensors"))
	require.NoError(t, err)
	_, err = f.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...))
	require.NoError(t, err)
	err = f.Truncate(8 + int64(len(header)) + 2*rows*cols)
	require.NoError(t, f.Close())
	if err != nil {
		t.Skip("needs a file system with large files with holes:", err)
	}
	out := filepath.Join(t.TempDir(), "out")
	args := []string{model, "-o", out, "--method", "rtn", "--axis", "oc"}
	p := succeed(t, append(append([]string{"plan"}, args...), "--json", "--memory", "90TiB")...)
	var plan struct{ Disk lowbit.DiskSpace }
	require.NoError(t, json.Unmarshal([]byte(p.stdout), &plan))
	require.Greater(t, plan.Disk.Least, int64(1<<40))
	require.Less(t, plan.Disk.Least, int64(1<<40+1<<37))
	if plan.Disk.Free < 0 || plan.Disk.Free > 1<<40 {
		t.Skip("needs a disk that tells what room it has, and less than a tebibyte")
	}
	for _, format := range []string{"lowbit", "gptq"} {
		o := runCommand(t, append(append([]string{"quantize"}, args...), "--format", format)...)
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "out: not enough room on the disk: 1")
		require.Contains(t, o.stderr, "GiB are needed at least (the result takes about 1")
		require.NoDirExists(t, out)
		require.NoDirExists(t, out+".partial")
	}
	require.Contains(t, succeed(t, append(append([]string{"plan"}, args...), "--memory", "90TiB")...).stdout, "\n  free there ")
}

// TestUnprinted: where only the report fails the result is there, and the
// message says so.
func TestUnprinted(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("needs /dev/full:", err)
	}
	defer full.Close()
	made := filepath.Join(t.TempDir(), "out")
	for _, args := range [][]string{
		{"quantize", embedded, "-o", made, "--method", "rtn", "--axis", "oc", "-q"},
		{"convert", made, "-o", made + "2", "--format", "dense", "-q"},
	} {
		c, _, stderr := command(t, args...)
		c.Stdout = full
		require.Error(t, c.Run())
		require.Equal(t, exitError, c.ProcessState.ExitCode())
		require.Contains(t, stderr.String(), args[3]+" is complete, but the report could not be printed: ")
		succeed(t, "inspect", args[3])
	}
}
