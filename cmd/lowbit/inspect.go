package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/quant"
)

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var base string
	c := &cobra.Command{
		Use:     "inspect MODEL",
		Short:   "Describe a model: architecture, tensors, and the scheme of every quantized layer",
		Example: `  lowbit inspect Llama-3.2-1B`,
		Args:    oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.model(c.Context(), false, &args[0], &base); err != nil {
				return err
			}
			info, err := lowbit.InspectAdapter(args[0], base)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(a.stdout, info)
			}
			return printInfo(a.stdout, info)
		},
	}
	c.Flags().StringVar(&base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return c
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
	t.add("size", size(i.FileBytes))
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
			t.add(l.Name, fmt.Sprintf("[%d %d]", l.Out, l.In), l.Scheme.Axis.String(), scheme(l), size(l.Bytes))
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	t = table{}
	t.add("\ntensor", "shape", "dtype", "size")
	for _, s := range i.Tensors {
		t.add(s.Name, fmt.Sprint(s.Shape), s.DType, size(s.Bytes))
	}
	return t.write(w)
}

// scheme describes the grid of a layer and what it has beside it.
func scheme(l lowbit.QuantizedLayer) string {
	parts := []string{schemeText(l.Scheme)}
	for _, p := range []struct {
		has  bool
		name string
	}{{l.RowScale, "row scale"}, {l.InputScale, "input scale"}, {l.GroupIndex, "group index"}} {
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
