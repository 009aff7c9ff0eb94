package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/checking"
	"github.com/golowbit/lowbit/internal/memory"
)

// errFound ends a check that has found something, which is printed already.
var errFound = errors.New("errors were found")

func (a *app) checkCommand() *cobra.Command {
	var o checking.Options
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "check MODEL [SOURCE]",
		Short: "Verify that a model is whole and agrees with itself, and with its source",
		Long: `Verify a model, of any format that lowbit reads and from any tool: headers and sizes of
files, shards against their index, checksums where they are stored (SHA256SUMS, the names of files
in the hub's cache, those inside of lowbit's layers), shapes against the configuration, quantized layers
(scales, zero-points, group indexes, bits that belong to no code), NaN and
infinities, and the tokenizer against the vocabulary. With the SOURCE that it was made
of, the relative error of every quantized layer is given, and every other tensor must be
the source's bit for bit.

Every finding is a line with file, tensor, what is expected and what was found. Errors
end the command with exit code 1; warnings, of what may be meant, do not.`,
		Example: `  lowbit check Llama-3.2-1B-4bit Llama-3.2-1B`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				return nil
			}
			return oneArg("model", ", and a source at most")(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Path = args[0]
			if len(args) == 2 {
				o.Source = args[1]
			}
			if err := a.models(c.Context(), quiet, &o.Path, &o.Source); err != nil {
				return err
			}
			return a.check(c.Context(), o, asJSON, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress, and findings only")
	return c
}

func (a *app) check(ctx context.Context, o checking.Options, asJSON, quiet bool) error {
	p := a.progress(quiet)
	o.Step = func(done, total int) {
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: o.Path})
	}
	r, err := checking.Check(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	if asJSON {
		err = printJSON(a.stdout, r)
	} else {
		err = printCheck(a.stdout, r, quiet)
	}
	if err == nil && r.Errors() > 0 {
		err = fmt.Errorf("%s: %d %w", o.Path, r.Errors(), errFound)
	}
	return err
}

func printCheck(w io.Writer, r *checking.Report, quiet bool) error {
	var b strings.Builder
	for _, f := range r.Findings {
		level := "error"
		if f.Warning {
			level = "warning"
		}
		fmt.Fprintf(&b, "%s: %s\n", level, strings.ReplaceAll(f.String(), "\n", "; "))
	}
	if quiet {
		_, err := io.WriteString(w, b.String())
		return err
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	if len(r.LayerErrors) > 0 {
		var t table
		t.add("layer", "relative error")
		for _, l := range r.LayerErrors {
			t.add(l.Name, fmt.Sprintf("%.4f", l.Error))
		}
		if err := t.write(&b); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "%s (%s): %d files, %d quantized layers and %d other tensors of %s", r.Path, r.Format, r.Files, r.Layers, r.Tensors, memory.Decimal(r.Bytes))
	if r.Checksums > 0 {
		fmt.Fprintf(&b, ", %d checksums", r.Checksums)
	}
	if r.Source != "" {
		fmt.Fprintf(&b, ", %d tensors as in %s", r.Identical, r.Source)
	}
	fmt.Fprintf(&b, ": %d errors, %d warnings\n", r.Errors(), len(r.Findings)-r.Errors())
	if r.Engines != nil {
		fmt.Fprintf(&b, "engines that load it: %s\n", readers(r.Engines))
		for _, n := range r.Engines {
			if !n.Accepted {
				fmt.Fprintln(&b, n)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
