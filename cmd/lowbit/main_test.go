package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/faults"
)

const (
	embedded    = "../../testdata/tinyllama-2m"
	calibration = "../../testdata/tinyllama-2m-text/calibration.txt"
	heldout     = "../../testdata/tinyllama-2m-text/heldout.txt"
)

const asCommand = "LOWBIT_TEST_AS_COMMAND"

// peakFile asks the test binary to write what Linux says of it at its end to a file.
const peakFile = "LOWBIT_TEST_PEAK"

// TestMain lets the test binary stand in for the command.
func TestMain(m *testing.M) {
	if os.Getenv(asCommand) == "1" {
		code := process()
		if path := os.Getenv(peakFile); path != "" {
			status, _ := os.ReadFile("/proc/self/status")
			if err := os.WriteFile(path, status, 0o666); err != nil {
				panic(err)
			}
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// outcome is what a run of the command left.
type outcome struct {
	code           int
	stdout, stderr string
}

// command prepares a run of the command as a process.
func command(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(t.Context(), exe, args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	return c, &stdout, &stderr
}

func runCommand(t *testing.T, args ...string) outcome {
	t.Helper()
	c, stdout, stderr := command(t, args...)
	err := c.Run()
	if _, exited := err.(*exec.ExitError); !exited {
		require.NoError(t, err)
	}
	return outcome{c.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// succeed runs the command and wants success.
func succeed(t *testing.T, args ...string) outcome {
	t.Helper()
	o := runCommand(t, args...)
	require.Equal(t, exitOK, o.code, o.stderr)
	return o
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

func TestUsage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"frobnicate"}, `unknown command "frobnicate"`},
		{[]string{"quantize"}, "no model given"},
		{[]string{"quantize", embedded}, "no output given"},
		{[]string{"quantize", embedded, "extra", "-o", out}, `also "extra"`},
		{[]string{"quantize", embedded, "-o", out, "--nonsense"}, "unknown flag: --nonsense"},
		{[]string{"quantize", embedded, "-o", out, "--bits", "three"}, "invalid argument"},
		{[]string{"quantize", embedded, "-o", out, "--bits", "9"}, "bits 9, want 2 to 8"},
		{[]string{"quantize", embedded, "-o", out, "--bits", "1"}, "bits 1, want 2 to 8"},
		{[]string{"quantize", embedded, "-o", out, "--group-size", "0"}, "group size 0"},
		{[]string{"quantize", embedded, "-o", out, "--group-size", "-2"}, "group size -2"},
		{[]string{"quantize", embedded, "-o", out, "--skip", "("}, "--skip\" flag: error parsing regexp"},
		{[]string{"quantize", embedded, "-o", out, "--format", "zip"}, `unknown checkpoint format "zip"`},
		{[]string{"quantize", embedded, "-o", out, "--method", "magic"}, `unknown method "magic", want gptq, rtn`},
		{[]string{"quantize", embedded, "-o", out, "--method", "rtn", "--refine", "3"}, "--refine is for --method gptq"},
		{[]string{"quantize", embedded, "-o", out, "--method", "rtn", "--olive-tensor"}, "--olive-tensor is for --method olive"},
		{[]string{"quantize", embedded, "-o", out, "--method", "olive", "--split-method", "rtn"}, "--split-method is for --method splitquant"},
		{[]string{"quantize", embedded, "-o", out, "--method", "olive", "--bits", "3"}, "OliVe: 3 bits"},
		{[]string{"quantize", embedded, "-o", out, "--method", "olive", "--olive-tensor", "--group-size", "64"}, "one scale for the whole weight, and groups of 64"},
		{[]string{"quantize", embedded, "-o", out, "--method", "splitquant", "--split-method", "gptq", "--bits", "8"}, "at most 6 bits, not 8"},
		{[]string{"quantize", embedded, "-o", out, "--axis", "both"}, `unknown axis "both", want default, ada, oc or ic`},
		{[]string{"quantize", embedded, "-o", out, "--arms", "oc,xx"}, `arm "xx"`},
		{[]string{"quantize", embedded, "-o", out, "--axis", "ic", "--arms", "oc"}, "none of axis ic"},
		{[]string{"quantize", embedded, "-o", out, "--objective", "best"}, `unknown objective "best"`},
		{[]string{"quantize", embedded, "-o", out, "--search", "all"}, `unknown search "all"`},
		{[]string{"quantize", embedded, "-o", out, "--inputs", "some"}, `unknown inputs "some"`},
		{[]string{"quantize", embedded, "-o", out, "--range", "wide"}, `unknown range rule "wide"`},
		{[]string{"quantize", embedded, "-o", out, "--scale-dtype", "f64"}, `unknown scale type "f64"`},
		{[]string{"quantize", embedded, "-o", out, "--damp", "1.5"}, "damping 1.5"},
		{[]string{"quantize", embedded, "-o", out, "--damp", "NaN"}, "damping NaN"},
		{[]string{"quantize", embedded, "-o", out, "--correct", "2"}, "correction 2"},
		{[]string{"quantize", embedded, "-o", out, "--correct", "0.5", "--inputs", "fp"}, "correction needs quantized inputs"},
		{[]string{"quantize", embedded, "-o", out, "--samples", "-1"}, "-1 samples"},
		{[]string{"quantize", embedded, "-o", out, "--workers", "-1"}, "-1 workers"},
		{[]string{"quantize", embedded, "-o", out, "--window", "256"}, "--window is for --eval"},
		{[]string{"quantize", embedded, "-o", out}, "needs calibration text: use --calib FILE"},
		{[]string{"quantize", embedded, "-o", out, "--calib", calibration, "--seq-len", "512"}, "context is 256"},
		{[]string{"quantize", embedded, "-o", out, "--preset", "slow"}, `unknown preset "slow"`},
		{[]string{"quantize", embedded, "-o", out, "--target", "toaster"}, `unknown engine "toaster"`},
		{[]string{"quantize", embedded, "-o", out, "--fold=maybe"}, `unknown fold "maybe"`},
		{[]string{"quantize", embedded, "-o", out, "--fit=some"}, `unknown fit "some"`},
		{[]string{"quantize", embedded, "-o", out, "--refine", "-1"}, "-1 rounds"},
		{[]string{"quantize", embedded, "-o", out, "--max-shard-size", "5XB"}, `size "5XB"`},
		{[]string{"quantize", embedded, "-o", out, "--gguf-dense", "f32"}, "are for format gguf"},
		{[]string{"quantize", embedded, "-o", out, "--gguf-type", "Q4_K_M"}, "are for format gguf"},
		{[]string{"quantize", embedded, "-o", out, "--gguf-type", "Q4_K_X", "--format", "gguf"}, `unknown type "Q4_K_X"`},
		{[]string{"quantize", embedded, "-o", out, "--gguf-pure", "--format", "gguf"}, "--gguf-pure is for --gguf-type"},
		{[]string{"quantize", embedded, "-o", out, "--gguf-type", "Q4_K_M", "--format", "gguf", "--group-size", "64"}, "chooses the grid of each layer"},
		{[]string{"quantize", embedded, "-o", out, "--gguf-dense", "f8", "--format", "gguf"}, `unknown type "f8"`},
		{[]string{"quantize", embedded, "-o", out, "--calib", "-", "--eval", "-"}, "standard input can be read once"},
		{[]string{"quantize", embedded, "-o", out, "--calib", calibration, "--bos"}, "beginning-of-sequence"},
		{[]string{"quantize", embedded, "-o", out, "--method", "rtn", "--axis", "oc", "--skip", "layer.1.*down"}, `no layer's name matches "layer.1.*down"`},
		{[]string{"quantize", embedded, "--print-config", "--bits", "12"}, "bits 12, want 2 to 8"},
		{[]string{"quantize", embedded, "-o", out, "--method", "int4"}, `unknown method "int4", want gptq, rtn`},
		{[]string{"quantize", embedded, "-o", out, "--int8-threshold", "3"}, "--int8-threshold is for --method int8"},
		{[]string{"quantize", embedded, "-o", out, "--method", "rtn", "--int8-outliers", "none"}, "--int8-outliers is for --method int8"},
		{[]string{"quantize", embedded, "-o", out, "--method", "int8", "--damp", "0.1"}, "--damp is for --method gptq"},
		{[]string{"quantize", embedded, "-o", out, "--method", "int8", "--int8-outliers", "some"}, `unknown rule of outliers "some"`},
		{[]string{"quantize", embedded, "-o", out, "--method", "int8", "--int8-threshold", "-6"}, "outliers from -6 on"},
		{[]string{"quantize", embedded, "-o", out, "--method", "int8", "--bits", "4"}, "4 bits are given beside a type of 8"},
		{[]string{"convert", embedded}, "no output given"},
		{[]string{"convert", embedded, "-o", out}, "no format given"},
		{[]string{"convert", embedded, "-o", out, "--format", "zip"}, `unknown checkpoint format "zip"`},
		{[]string{"eval", embedded}, "no text given"},
		{[]string{"eval", embedded, "--text", heldout, heldout}, "repeat --text"},
		{[]string{"eval", embedded, "--text", heldout, "--window", "1"}, "window of 1"},
		{[]string{"eval", embedded, "--text", heldout, "--window", "512"}, "context is 256"},
		{[]string{"eval", embedded, "--text", heldout, "--threshold", "3"}, "--threshold is for --activations"},
		{[]string{"eval", embedded, "--text", heldout, "--activations", "fp8"}, `unknown type of activations "fp8", want int8`},
		{[]string{"eval", embedded, "--text", heldout, "--activations", "int8", "--threshold", "-1"}, "outliers from -1 on"},
		{[]string{"inspect"}, "no model given"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			o := runCommand(t, c.args...)
			require.Equal(t, exitUsage, o.code, o.stderr)
			requireOneLine(t, o, c.want)
			require.NoFileExists(t, out)
		})
	}
}

// requireOneLine wants an empty stdout and one line of error that contains want.
func requireOneLine(t *testing.T, o outcome, want string) {
	t.Helper()
	require.Empty(t, o.stdout)
	require.True(t, strings.HasPrefix(o.stderr, "lowbit: "), o.stderr)
	require.Equal(t, 1, strings.Count(o.stderr, "\n"), o.stderr)
	require.Contains(t, o.stderr, want)
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"--help"}, {"quantize", "--help"}, {"eval", "--help"}, {"inspect", "--help"}, {"completion", "bash"}} {
		o := succeed(t, args...)
		require.Contains(t, o.stdout, "lowbit")
		require.Empty(t, o.stderr)
	}
	require.Regexp(t, `^lowbit \S+.* go\d\S* \w+/\w+ \w+\n$`, succeed(t, "version").stdout)
}

func TestOneLine(t *testing.T) {
	require.Equal(t, "a; b", faults.OneLine(usageError{errorText("a\n\n b\n")}))
}

type errorText string

func (e errorText) Error() string { return string(e) }

// TestInterrupt stops a run in the middle and resumes it.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "o'ut")
	args := []string{"quantize", embedded, "-o", out, "--bits", "3", "--group-size", "64",
		"--calib", calibration, "--samples", "8", "--per-document"}
	c, stdout, _ := command(t, args...)
	c.Stderr = nil
	lines, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	var log bytes.Buffer
	sent := false
	buf := make([]byte, 4096)
	for {
		n, err := lines.Read(buf)
		log.Write(buf[:n])
		if !sent && strings.Contains(log.String(), "model.layers.1.") {
			require.NoError(t, c.Process.Signal(syscall.SIGINT))
			sent = true
		}
		if err != nil {
			break
		}
	}
	_ = c.Wait()
	require.Equal(t, exitInterrupted, c.ProcessState.ExitCode(), log.String())
	require.Empty(t, stdout.String())
	require.NoFileExists(t, out)
	require.DirExists(t, out+".partial")
	require.Contains(t, log.String(), `--per-document --resume`)
	require.Contains(t, log.String(), `o'\''ut`)

	kept := regexp.MustCompile(`interrupted; (\d+) of 28 layers are finished and kept in `).FindStringSubmatch(log.String())
	require.NotNil(t, kept, log.String())

	o := runCommand(t, args...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "an earlier run was interrupted")

	// Stopped again at once: what is kept is all that there is.
	ctx, cancel := context.WithCancel(t.Context())
	var stderr stopper
	stderr.stop = func() { cancel() }
	a := &app{args: append(slices.Clone(args), "--resume"), stdout: io.Discard, stderr: &stderr}
	require.Equal(t, exitInterrupted, a.run(ctx), stderr.String())
	require.Contains(t, stderr.String(), kept[1]+" of them finished by an earlier run")
	require.Contains(t, stderr.String(), kept[0])
	require.Equal(t, 1, strings.Count(stderr.String(), "go on with: lowbit quantize"))

	other := append([]string{}, args...)
	other[5] = "4" // bits
	o = runCommand(t, append(other, "--resume")...)
	require.Equal(t, exitError, o.code)
	requireOneLine(t, o, "started with other options")

	var r struct {
		Layers []struct{ Name string } `json:"layers"`
	}
	o = succeed(t, append(args, "--resume", "--json", "--quiet")...)
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &r))
	require.Len(t, r.Layers, 28)
	require.Empty(t, o.stderr)
	require.DirExists(t, out)
	require.NoDirExists(t, out+".partial")
}

// stopper calls stop when the work begins.
type stopper struct {
	bytes.Buffer
	stop func()
}

func (s *stopper) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("layers to quantize in")) {
		s.stop()
	}
	return s.Buffer.Write(p)
}

// TestInterruptEarly stops before anything is finished.
func TestInterruptEarly(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	a := &app{args: []string{"quantize", embedded, "-o", out, "--calib", calibration, "-q"}, stdout: &stdout, stderr: &stderr}
	require.Equal(t, exitInterrupted, a.run(ctx))
	require.Contains(t, stderr.String(), "nothing was finished")
	require.NoDirExists(t, out+".partial")
}
