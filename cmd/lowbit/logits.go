package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/logits"
)

// maxIDs limits a file of token ids, in bytes.
const maxIDs = 1 << 30

// readIDs reads a JSON array of arrays of token ids.
func readIDs(path string, stdin io.Reader) ([][]int32, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxIDs+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxIDs {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxIDs)
	}
	var ids [][]int32
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &ids); err != nil {
		return nil, fmt.Errorf("%s: want a JSON array of arrays of token ids: %w", path, err)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: no sequences", path)
	}
	return ids, nil
}

// evalLogits is eval that writes the logits to a file.
func (a *app) evalLogits(ctx context.Context, o lowbit.EvalOptions, path string, asJSON, quiet bool) error {
	if !strings.HasSuffix(path, ".safetensors") {
		return usageError{fmt.Errorf("--logits %s: want a name that ends in .safetensors", path)}
	}
	l, err := logits.New(path, o.Text.IDs)
	if err != nil {
		return err
	}
	defer l.Close()
	o.Logits = l.Add
	if err := a.eval(ctx, o, o.Against, asJSON, quiet); err != nil {
		return err
	}
	return l.Publish()
}
