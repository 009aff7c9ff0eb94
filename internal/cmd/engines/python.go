package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// uv installs packages: in parallel, and with one copy on disk of what several
// environments have.
const uv = "uv==0.13.8"

// environment makes the virtual environment that engines/NAME.txt pins, unless
// it is there, and returns the path of its Python.
func environment(ctx context.Context, cache, name string) (string, error) {
	pins := filepath.Join("engines", name+".txt")
	data, err := os.ReadFile(pins)
	if err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, "python3", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("needs Python: %w", err)
	}
	sum := sha256.Sum256(append(append([]byte(uv), version...), data...))
	dir := filepath.Join(cache, name+"-"+hex.EncodeToString(sum[:6]))
	python := filepath.Join(dir, "bin", "python")
	done := filepath.Join(dir, "complete")
	if _, err := os.Stat(done); err == nil {
		return python, nil
	}
	tool, err := installer(ctx, cache)
	if err != nil {
		return "", err
	}
	start := time.Now()
	old, _ := filepath.Glob(filepath.Join(cache, name+"-????????????"))
	for _, d := range old {
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	for _, args := range [][]string{
		{"venv", "--python", "python3", dir},
		{"pip", "install", "--no-deps", "--python", python, "-r", pins},
	} {
		if err := command(ctx, cache, tool, args...); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(os.Stderr, "%s: installed in %.0f s\n", name, time.Since(start).Seconds())
	return python, os.WriteFile(done, nil, 0o644)
}

// installer returns the path of uv, in an environment of its own.
func installer(ctx context.Context, cache string) (string, error) {
	dir := filepath.Join(cache, strings.ReplaceAll(uv, "==", "-"))
	tool := filepath.Join(dir, "bin", "uv")
	if _, err := os.Stat(tool); err == nil {
		return tool, nil
	}
	if err := command(ctx, cache, "python3", "-m", "venv", dir); err != nil {
		return "", err
	}
	return tool, command(ctx, cache, filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "--quiet", "--no-deps", uv)
}

// command runs a program whose output matters only if it fails.
func command(ctx context.Context, cache, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "UV_CACHE_DIR="+filepath.Join(cache, "packages"), "UV_SYSTEM_CERTS=1", "UV_HTTP_TIMEOUT=300", "UV_NO_CONFIG=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, tail(out))
	}
	return nil
}

// job is what a script is asked; see engines/common.py.
type job struct {
	Model  string    `json:"model"`
	DType  string    `json:"dtype"`
	IDs    [][]int32 `json:"ids"`
	Logits string    `json:"logits"`
}

// reply is what a script answers.
type reply struct {
	Versions   map[string]string `json:"versions"`
	Missing    int               `json:"missing"`
	Unexpected int               `json:"unexpected"`
	Names      []string          `json:"names"`
	Error      string            `json:"error"`

	answers []answered // of what shows no logits
}

// ask runs a script on jobs. There are fewer replies than jobs if it crashed,
// and then said is why.
func ask(ctx context.Context, python, script, dir string, jobs []job) (replies []reply, said string, err error) {
	// The compilers and tools of its environment are found first.
	env := []string{"PATH=" + filepath.Dir(python) + string(os.PathListSeparator) + os.Getenv("PATH")}
	x, err := exchange(ctx, dir, jobs, env, python, script)
	if err != nil {
		return nil, "", err
	}
	for line := range bytes.Lines(x.answer) {
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, "", fmt.Errorf("%s: %w", script, err)
		}
		replies = append(replies, r)
	}
	if x.failed != nil || len(replies) < len(jobs) {
		said = fmt.Sprintf("%v: %s", x.failed, tail(x.output))
	}
	return replies, said, nil
}

// exchanged is what came of a program that was asked something.
type exchanged struct {
	cmd    *exec.Cmd
	answer []byte // its file of answers
	output []byte // what it printed
	failed error  // how it ended
}

func (x *exchanged) error() error { return fmt.Errorf("%s: %w\n%s", x.cmd, x.failed, tail(x.output)) }

// exchange runs a program whose last two arguments are files in dir: a question in
// JSON and what it writes its answer to. It is an error if there is no answer.
func exchange(ctx context.Context, dir string, question any, env []string, name string, args ...string) (*exchanged, error) {
	data, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	in, out := filepath.Join(dir, "question.json"), filepath.Join(dir, "answer.json")
	if err := errors.Join(os.RemoveAll(out), os.WriteFile(in, data, 0o600)); err != nil {
		return nil, err
	}
	x := &exchanged{cmd: exec.CommandContext(ctx, name, append(args, in, out)...)}
	x.cmd.WaitDelay = 10 * time.Second
	x.cmd.Env = append(os.Environ(), env...)
	x.output, x.failed = x.cmd.CombinedOutput()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if x.answer, err = os.ReadFile(out); err != nil {
		return nil, errors.Join(x.error(), err)
	}
	return x, nil
}

// tail is the end of what a program said.
func tail(out []byte) string {
	return string(out[max(0, len(out)-2000):])
}
