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
)

var kills = flag.Int("kills", 20, "how often TestKill kills a run")

// killRuns are runs that go different ways to their result.
var killRuns = [][]string{
	{"--calib", calibration, "--samples", "4", "--per-document", "--bits", "3", "--group-size", "64", "--preset", "paper"},
	{"--calib", calibration, "--samples", "2", "--per-document", "--format", "gguf", "--preset", "plain", "--axis", "oc", "--bits", "4", "--group-size", "32", "--sym"},
	{"--method", "rtn", "--axis", "oc"},
	{"--method", "rtn", "--axis", "oc", "--format", "gguf", "--group-size", "32", "--sym"},
}

// TestKill kills runs at random moments with SIGKILL, again and again until one
// ends by itself: the result has the bytes of an undisturbed run, and nothing
// else is left.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	type whole struct {
		out  string
		took time.Duration
	}
	wholes := make([]whole, len(killRuns))
	for i, args := range killRuns {
		wholes[i].out = filepath.Join(dir, "whole", string(rune('a'+i)))
		start := time.Now()
		succeed(t, append([]string{"quantize", embedded, "-q", "-o", wholes[i].out}, args...)...)
		wholes[i].took = time.Since(start)
	}
	killed, results := 0, 0
	for n := 0; killed < *kills; n++ {
		i := n % len(killRuns)
		out := filepath.Join(dir, "run", "out")
		args := append([]string{"quantize", embedded, "-q", "--resume", "-o", out}, killRuns[i]...)
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
				// It may have been on its way out: complete, and all cleaned up.
				names, err := filepath.Glob(out + "*")
				require.NoError(t, err)
				ended = slices.Equal(names, []string{out})
				continue
			}
			require.NoError(t, err, "%v: %s", args, stderr)
			ended = true
		}
		require.Equal(t, tree(t, wholes[i].out), tree(t, out), "%v", args)
		names, err := filepath.Glob(out + "*")
		require.NoError(t, err)
		require.Equal(t, []string{out}, names)
		require.NoError(t, os.RemoveAll(filepath.Dir(out)))
		results++
	}
	t.Logf("%d kills, %d results compared", killed, results)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// tree returns the contents of a file or of the files of a folder.
func tree(t *testing.T, path string) map[string]string {
	t.Helper()
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(path, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(path, name)
		files[rel] = string(data)
		return err
	}))
	return files
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
	o := runCommand(t, "quantize", embedded, "-o", filepath.Join(dir, "out"), "--calib", calibration, "--max-text", "1000", "-q")
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "more than 1000 bytes; Text.MaxBytes (--max-text) sets the limit")
}
