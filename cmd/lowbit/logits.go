package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/logits"
)

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
