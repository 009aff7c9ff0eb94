package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/report"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/version"
	"github.com/golowbit/lowbit/quant"
)

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var base, html string
	var text textFlags
	look := report.Options{}
	c := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Describe a model: architecture, tensors, and the scheme of every quantized layer",
		Example: `  lowbit inspect Llama-3.2-1B

  # where weights and activations have outliers, for a browser
  lowbit inspect Llama-3.2-1B --html outliers.html --text wiki.txt`,
		Args: oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			if html == "" && (text.given() || look.Samples != 0 || look.Window != 0) {
				return usageError{errors.New("--text, --samples and --window are for --html")}
			}
			if err := a.model(c.Context(), false, &args[0], &base); err != nil {
				return err
			}
			info, err := lowbit.InspectAdapter(args[0], base)
			if err != nil {
				return err
			}
			if html != "" {
				look.Path, look.Base, look.Text = args[0], base, text.text(a.stdin)
				return a.inspectHTML(c.Context(), info, look, html)
			}
			if asJSON {
				return printJSON(a.stdout, info)
			}
			return printInfo(a.stdout, info)
		},
	}
	c.Flags().StringVar(&base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	s := c.Flags()
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.StringVar(&html, "html", "", "`file` to write a page to, for a browser, instead: magnitudes of the weights of every layer by input and output channel, outliers marked; replaced if it is there")
	text.register(s, "text", "text to run the model on for --html, which then has activations too", "")
	text.registerReading(s)
	s.IntVar(&look.Samples, "samples", 0, "windows of --text to run, evenly spread (default 8)")
	s.IntVar(&look.Window, "window", 0, "tokens a window of --text (default 2048 or the model's context)")
	s.IntVar(&look.Workers, "workers", 0, "goroutines for --html (default: all cores)")
	return c
}

// inspectHTML writes a page about a model as it is.
func (a *app) inspectHTML(ctx context.Context, info *lowbit.Info, o report.Options, file string) error {
	p := a.progress(false)
	o.Step = func(done, total int) {
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: o.Path})
	}
	layers, err := report.Look(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	page, err := report.ModelHTML(strings.TrimSpace(version.Line()), info, layers)
	if err != nil {
		return err
	}
	return disk.FS{}.WriteFile(file, page)
}

func printInfo(w io.Writer, i *lowbit.Info) error {
	var t table
	t.add("model", i.Path)
	t.add("format", i.Format)
	if i.Unsupported != "" {
		t.add("cannot run", i.Unsupported)
	} else {
		tied := ""
		if i.Tied {
			tied = ", tied embeddings"
		}
		t.add("architecture", i.Architecture)
		t.add("blocks", fmt.Sprintf("%d of width %d, MLP %d", i.Blocks, i.Hidden, i.Intermediate))
		t.add("heads", fmt.Sprintf("%d query, %d key/value, of width %d", i.Heads, i.KVHeads, i.HeadDim))
		t.add("vocabulary", fmt.Sprintf("%d%s", i.Vocab, tied))
		t.add("context", fmt.Sprint(i.Context))
	}
	t.add("parameters", fmt.Sprint(i.Parameters))
	t.add("size", memory.Decimal(i.FileBytes))
	if len(i.Quantized) > 0 {
		t.add("quantized", fmt.Sprintf("%d layers, %.3f bits per weight", len(i.Quantized), i.BitsPerWeight))
	}
	if err := t.write(w); err != nil {
		return err
	}
	if len(i.Quantized) > 0 {
		t = table{}
		t.add("\nlayer", "shape", "axis", "scheme", "size")
		for _, l := range i.Quantized {
			t.add(l.Name, fmt.Sprintf("[%d %d]", l.Out, l.In), l.Scheme.Axis.String(), scheme(l), memory.Decimal(l.Bytes))
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	t = table{}
	t.add("\ntensor", "shape", "dtype", "size")
	for _, s := range i.Tensors {
		t.add(s.Name, fmt.Sprint(s.Shape), s.DType, memory.Decimal(s.Bytes))
	}
	return t.write(w)
}

// scheme describes the grid of a layer and what it has beside it.
func scheme(l lowbit.QuantizedLayer) string {
	parts := []string{schemeText(l.Scheme)}
	for _, p := range []struct {
		has  bool
		name string
	}{{l.RowScale, "row scale"}, {l.InputScale, "input scale"}, {l.GroupIndex, "group index"}, {l.Summands > 0, fmt.Sprintf("sum of %d", 1+l.Summands)}, {l.Columns > 0, fmt.Sprintf("%d columns in 16 bits", l.Columns)}} {
		if p.has {
			parts = append(parts, p.name)
		}
	}
	return strings.Join(parts, ", ")
}

// schemeText describes a grid.
func schemeText(s quant.Scheme) string {
	parts := []string{fmt.Sprintf("%d bits", s.Bits)}
	if s.GroupSize == quant.WholeLine {
		parts = append(parts, "whole channels")
	} else {
		parts = append(parts, fmt.Sprintf("groups of %d", s.GroupSize))
	}
	if s.Symmetric {
		parts = append(parts, "symmetric")
	}
	if s.Grid == nil {
		parts = append(parts, s.ScaleType.String()+" scales")
	} else if text, err := s.Grid.MarshalText(); err == nil {
		parts = append(parts, string(text))
	}
	if s.Strided {
		parts = append(parts, "strided")
	}
	return strings.Join(parts, ", ")
}
