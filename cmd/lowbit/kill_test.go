//go:build unix

package main

import (
	"flag"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
)

var kills = flag.Int("kills", 20, "how often TestKill kills a run")

// killRuns are runs that go different ways to their result: every format from
// calibration, from weights alone and by conversion. quantized is a model that
// every format holds but bitsandbytes, which holds int8.
func killRuns(quantized, int8 string) [][]string {
	runs := [][]string{
		{"quantize", embedded, "--calib", calibration, "--samples", "4", "--per-document", "--bits", "3", "--group-size", "64", "--preset", "paper"},
		{"quantize", embedded, "--method", "rtn", "--axis", "oc"},
		{"convert", quantized, "--format", "dense"},
	}
	for _, f := range checkpoint.Formats() {
		scheme := []string{"--format", f.Name(), "--axis", "oc", "--bits", "4", "--group-size", "32", "--sym"}
		from := quantized
		if f.Name() == "bitsandbytes" { // has one grid only
			scheme, from = scheme[:4], int8
		}
		runs = append(runs,
			append([]string{"quantize", embedded, "--calib", calibration, "--samples", "2", "--per-document", "--preset", "plain", "--fold=on", "--arms", "oc,oc+in"}, scheme...),
			append([]string{"quantize", embedded, "--method", "rtn"}, scheme...),
			[]string{"convert", from, "--format", f.Name()})
	}
	return runs
}

// TestKill kills runs at random moments with SIGKILL, again and again until one
// ends by itself or has ended but for its exit: the result has the bytes of an
// undisturbed run, and nothing else is left.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	quantized := filepath.Join(dir, "quantized")
	succeed(t, "quantize", embedded, "-q", "-o", quantized, "--method", "rtn", "--axis", "oc", "--bits", "4", "--group-size", "32", "--sym")
	type whole struct {
		files map[string]string
		took  time.Duration
	}
	int8 := filepath.Join(dir, "int8")
	succeed(t, "quantize", embedded, "-q", "-o", int8, "--method", "int8")
	runs := killRuns(quantized, int8)
	wholes := map[int]whole{}
	killed, results := 0, 0
	for killed < *kills {
		i := rand.IntN(len(runs))
		if results < 3 {
			i = results // also where there are few kills
		}
		if _, ok := wholes[i]; !ok {
			out := filepath.Join(dir, "whole")
			start := time.Now()
			succeed(t, append([]string{runs[i][0], runs[i][1], "-q", "-o", out}, runs[i][2:]...)...)
			wholes[i] = whole{tree(t, out), time.Since(start)}
			require.NoError(t, os.RemoveAll(out))
		}
		out := filepath.Join(dir, "run", "out")
		args := append([]string{runs[i][0], runs[i][1], "-q", "--resume", "-o", out}, runs[i][2:]...)
		for ended := false; !ended; {
			c, _, stderr := command(t, args...)
			require.NoError(t, c.Start())
			if killed < *kills {
				after := time.Duration(rand.Int64N(int64(wholes[i].took) * 11 / 10))
				time.AfterFunc(after, func() { _ = c.Process.Kill() })
			}
			err := c.Wait()
			if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
				killed++
				names, err := filepath.Glob(out + "*")
				require.NoError(t, err)
				ended = slices.Equal(names, []string{out})
				continue
			}
			require.NoError(t, err, "%v: %s", args, stderr)
			ended = true
		}
		require.Equal(t, wholes[i].files, tree(t, out), "%v", args)
		names, err := filepath.Glob(out + "*")
		require.NoError(t, err)
		require.Equal(t, []string{out}, names)
		require.NoError(t, os.RemoveAll(filepath.Dir(out)))
		results++
	}
	t.Logf("%d kills, %d results compared, of %d kinds", killed, results, len(wholes))
}

// TestHangUp: SIGHUP ends a run as SIGTERM does.
func TestHangUp(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("needs a process that does not ignore SIGHUP, as one started by nohup does")
	}
	out := filepath.Join(t.TempDir(), "out")
	c, _, stderr := command(t, "quantize", embedded, "-o", out, "--calib", calibration)
	require.NoError(t, c.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(out+".partial", "state.json"))
		return err == nil
	}, 30*time.Second, 5*time.Millisecond)
	require.NoError(t, c.Process.Signal(syscall.SIGHUP))
	_ = c.Wait()
	require.Equal(t, exitInterrupted, c.ProcessState.ExitCode(), stderr.String())
	require.Contains(t, stderr.String(), "interrupted; ")
}

// TestNoRegularFile: what is no file is refused at once, and not waited for.
func TestNoRegularFile(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o666))
	for _, path := range []string{fifo, "/dev/zero"} {
		o := runCommand(t, "quantize", embedded, "-o", filepath.Join(dir, "out"), "--calib", path, "-q")
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "not a regular file")
		o = runCommand(t, "eval", embedded, "--text", path, "-q")
		require.Equal(t, exitError, o.code, o.stderr)
		o = runCommand(t, "inspect", path)
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "not a regular file")
	}
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		model := filepath.Join(t.TempDir(), "model")
		require.NoError(t, os.CopyFS(model, os.DirFS(embedded)))
		require.NoError(t, os.Remove(filepath.Join(model, name)))
		require.NoError(t, syscall.Mkfifo(filepath.Join(model, name), 0o666))
		o := runCommand(t, "quantize", model, "-o", filepath.Join(dir, "out"), "--calib", calibration, "-q")
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, "not a regular file")
	}
	// What nothing reads would be missing from the result.
	for _, name := range []string{"tokenizer.json", "generation_config.json", "LICENSE"} {
		model, out := filepath.Join(t.TempDir(), "model"), filepath.Join(t.TempDir(), "out")
		require.NoError(t, os.CopyFS(model, os.DirFS(embedded)))
		require.NoError(t, os.RemoveAll(filepath.Join(model, name)))
		require.NoError(t, os.Symlink("/dev/zero", filepath.Join(model, name)))
		o := runCommand(t, "quantize", model, "-o", out, "--method", "rtn", "--axis", "oc", "-q")
		require.Equal(t, exitError, o.code)
		requireOneLine(t, o, name+": not a regular file (a device)")
		names, err := filepath.Glob(out + "*")
		require.NoError(t, err)
		require.Empty(t, names)
	}
	o := runCommand(t, "quantize", embedded, "-o", filepath.Join(dir, "out"), "--calib", calibration, "--max-text", "1000", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "more than 1000 bytes; Text.MaxBytes (--max-text) sets the limit")
}
