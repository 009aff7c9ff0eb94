package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/golowbit/lowbit/internal/gguf"
)

// parserDir has the program that reads files with the parser of a later Ollama.
const parserDir = "engines/ollama"

// parsed is what it finds in a file.
type parsed struct {
	Version  string
	Keys     []string
	Template string
	Error    string
	Tensors  []struct {
		Name          string
		Kind          gguf.Type
		Shape         []int
		Bytes, Offset int64
	}
}

// errNoParser says that the parser cannot be had on this machine.
var errNoParser = errors.New("the parser of a later Ollama cannot be built")

// parse has the files of jobs read.
func (b *bench) parse(ctx context.Context, jobs []job) ([]parsed, error) {
	program := filepath.Join(b.work, "ollama-parser")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", program, ".")
	build.Dir = parserDir
	if out, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(ctx.Err(), fmt.Errorf("%w: %w\n%s", errNoParser, err, tail(out)))
	}
	cmd := exec.CommandContext(ctx, program)
	for _, j := range jobs {
		cmd.Args = append(cmd.Args, j.Model)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, tail(said.Bytes()))
	}
	all := make([]parsed, len(jobs))
	lines := json.NewDecoder(bytes.NewReader(out))
	for i := range all {
		if err := lines.Decode(&all[i]); err != nil {
			return nil, fmt.Errorf("%s: answer %d: %w", cmd, i, err)
		}
	}
	return all, nil
}

// unlike says what the parser finds otherwise in a file than is there, "" if nothing.
func (p parsed) unlike(path string) (string, error) {
	if p.Error != "" {
		return p.Error, nil
	}
	f, err := gguf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var keys []string
	for _, kv := range f.KV() {
		keys = append(keys, kv.Key)
	}
	const counted = "general.parameter_count" // it adds up itself
	theirs := slices.DeleteFunc(slices.Clone(p.Keys), func(k string) bool { return k == counted })
	slices.Sort(keys)
	if !slices.Equal(keys, theirs) {
		return fmt.Sprintf("finds the keys %v, want %v", theirs, keys), nil
	}
	if p.Template != "chatml" {
		return fmt.Sprintf("recognizes the chat template as %q, want chatml", p.Template), nil
	}
	if len(p.Tensors) != len(f.Tensors()) {
		return fmt.Sprintf("finds %d tensors, want %d", len(p.Tensors), len(f.Tensors())), nil
	}
	for i, t := range f.Tensors() {
		o := p.Tensors[i]
		if o.Name != t.Name || !slices.Equal(o.Shape, t.Dims) || o.Kind != t.Type || o.Bytes != t.Bytes() || o.Offset != t.Offset {
			return fmt.Sprintf("finds %+v, want %+v of %d bytes", o, t, t.Bytes()), nil
		}
	}
	return "", nil
}
