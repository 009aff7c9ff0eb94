package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/modelpack"
	"github.com/golowbit/lowbit/internal/memory"
)

func (a *app) pushCommand() *cobra.Command {
	var o modelpack.Options
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "push MODEL REGISTRY/NAME:TAG",
		Short: "Put a model into a registry of containers",
		Long: `Upload a model of any format to an OCI registry, as an artefact of CNCF's ModelPack: every file
is a layer as it is. Credentials are those of docker login. What the registry has already is not
uploaded again, so that the same command goes on after an interrupt; the tag points to the
model once all of it is there. The same files give the same digest.`,
		Example: `  lowbit push Qwen3-0.6B-4bit ghcr.io/me/qwen3-0.6b:4bit`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return usageError{fmt.Errorf("want a model and where to push it to, and there are %d arguments", len(args))}
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.To = args[1]
			return a.push(c.Context(), args[0], o, asJSON, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.BoolVar(&o.PlainHTTP, "plain-http", false, "the registry speaks HTTP without TLS")
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

func (a *app) push(ctx context.Context, model string, o modelpack.Options, asJSON, quiet bool) error {
	if err := a.models(ctx, quiet, &model); err != nil {
		return err
	}
	info, err := lowbit.Inspect(model)
	if err != nil {
		return err
	}
	o.Dir, o.Descriptor, o.Config = model, map[string]string{}, map[string]string{"format": "safetensors"}
	if info.Format == (ggufmodel.Format{}).Name() {
		o.Dir, o.Config["format"] = filepath.Dir(info.Path), info.Format
		for _, part := range (ggufmodel.Format{}).Parts(info.Path) {
			o.Files = append(o.Files, filepath.Base(part))
		}
	}
	if info.Architecture != "" {
		o.Descriptor["family"] = info.Architecture
	}
	if len(info.Quantized) > 0 {
		o.Config["quantization"] = info.Format
	}
	o.Config["paramSize"] = fmt.Sprintf("%.1fM", float64(info.Parameters)/1e6)
	p := a.progress(quiet)
	o.Progress = func(pass string, done, total int64) {
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Message: pass, Done: int(done), Total: int(total)})
	}
	r, err := modelpack.Push(ctx, o)
	p.close()
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return interrupted{"interrupted; the same command goes on, with what the registry has kept"}
	case err != nil:
		return err
	case asJSON:
		return printJSON(a.stdout, r)
	}
	_, err = fmt.Fprintf(a.stdout, "%s@%s: %d files, %s, of which %s were uploaded\n", r.Reference, r.Digest, len(r.Layers), memory.Decimal(r.Size), memory.Decimal(r.Uploaded))
	return err
}
