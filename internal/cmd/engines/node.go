package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
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
	data, err := json.Marshal(requests)
	if err != nil {
		return nil, "", err
	}
	in, out := filepath.Join(dir, "request.json"), filepath.Join(dir, "reply.json")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		return nil, "", err
	}
	cmd := exec.CommandContext(ctx, "node", script, parent, in, out)
	cmd.WaitDelay = 10 * time.Second
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, "", fmt.Errorf("%s: %w\n%s", cmd, err, tail(output))
	}
	if data, err = os.ReadFile(out); err != nil {
		return nil, "", err
	}
	var all struct {
		Version string            `json:"version"`
		Jobs    []json.RawMessage `json:"jobs"`
	}
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, "", err
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
