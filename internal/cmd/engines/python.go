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
}

// ask runs a script on jobs. There are fewer replies than jobs if it crashed,
// and then said is why.
func ask(ctx context.Context, python, script, dir string, jobs []job) (replies []reply, said string, err error) {
	data, err := json.Marshal(jobs)
	if err != nil {
		return nil, "", err
	}
	in, out := filepath.Join(dir, "jobs.json"), filepath.Join(dir, "replies.jsonl")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, python, script, in, out)
	cmd.WaitDelay = 10 * time.Second
	// The compilers and tools of its environment are found first.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(python)+string(os.PathListSeparator)+os.Getenv("PATH"))
	output, failed := cmd.CombinedOutput()
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	data, err = os.ReadFile(out)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w\n%s", cmd, failed, tail(output)), err)
	}
	for line := range bytes.Lines(data) {
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, "", fmt.Errorf("%s: %w", script, err)
		}
		replies = append(replies, r)
	}
	if failed != nil || len(replies) < len(jobs) {
		said = fmt.Sprintf("%v: %s", failed, tail(output))
	}
	return replies, said, nil
}

// tail is the end of what a program said.
func tail(out []byte) string {
	return string(out[max(0, len(out)-2000):])
}
