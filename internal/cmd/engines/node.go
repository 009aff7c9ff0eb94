package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// node asks llama.cpp, which npm's node-llama-cpp ships built. It opens every
// file in one process and ends at the first that it does not load.
func node(ctx context.Context, script, dir string, jobs []job) (replies []reply, said string, err error) {
	parent, err := llamaCPP(ctx)
	if err != nil {
		return nil, "", err
	}
	type request struct {
		Model   string    `json:"model"`
		Windows [][]int32 `json:"windows"`
		Logits  string    `json:"logits"`
	}
	requests := make([]request, len(jobs))
	for i, j := range jobs {
		requests[i] = request{j.Model, j.IDs, j.Logits}
	}
	x, err := exchange(ctx, dir, requests, nil, "node", script, parent)
	if err != nil {
		return nil, "", err
	}
	if x.failed != nil {
		return nil, "", x.error()
	}
	var all struct {
		Version string            `json:"version"`
		Jobs    []json.RawMessage `json:"jobs"`
	}
	if err := json.Unmarshal(x.answer, &all); err != nil {
		return nil, "", fmt.Errorf("%s: %w", script, err)
	}
	for range all.Jobs {
		replies = append(replies, reply{Versions: map[string]string{"node-llama-cpp": all.Version}})
	}
	return replies, "", nil
}

// llamaCPP is the folder that LOWBIT_LLAMACPP names, or that .ci/llamacpp.sh
// makes.
func llamaCPP(ctx context.Context) (string, error) {
	const name = "LOWBIT_LLAMACPP"
	if dir := os.Getenv(name); dir != "" {
		return dir, nil
	}
	cmd := exec.CommandContext(ctx, "sh", ".ci/llamacpp.sh")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	dir, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "export "+name+"='")
	if !ok {
		return "", fmt.Errorf("%s: no llama.cpp on this machine", cmd)
	}
	return strings.TrimSuffix(dir, "'"), nil
}
