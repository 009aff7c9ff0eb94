package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/internal/memory"
)

func (a *app) compareCommand() *cobra.Command {
	var o lowbit.CompareOptions
	var text textFlags
	var asJSON, asCSV, quiet bool
	c := &cobra.Command{
		Use:   "compare SOURCE VARIANT... --text FILE",
		Short: "Compare models that were made of one: size, perplexity, divergence",
		Long: `Run a model and variants of it on text, the model itself once, and print for each its size,
perplexity and how far its predictions are from the model's. Variants may be of any format that
lowbit reads, also GGUF files and other tools' folders; they need the vocabulary of SOURCE, whose
tokenizer is used. Bits are those of the files, over all parameters, embeddings too.`,
		Example: `  lowbit compare Llama-3.2-1B Llama-3.2-1B-4bit Llama-3.2-1B-3bit Llama-3.2-1B-Q4_K_M.gguf --text heldout.txt`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{fmt.Errorf("want a source and at least one variant (see %s --help)", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case !text.given():
				return usageError{errors.New("no text given: use --text FILE")}
			case asJSON && asCSV:
				return usageError{errors.New("--json and --csv: want one of them")}
			}
			o.Source, o.Variants, o.Text = args[0], slices.Clone(args[1:]), text.text(a.stdin)
			if err := a.model(c.Context(), quiet, &o.Source, &o.Base); err != nil {
				return err
			}
			for i := range o.Variants {
				if err := a.models(c.Context(), quiet, &o.Variants[i]); err != nil {
					return err
				}
			}
			return a.compare(c.Context(), o, args, asJSON, asCSV, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	text.register(s, "text", "text to measure on", "")
	text.registerReading(s)
	s.BoolVar(&o.Packed, "packed", false, "leave quantized linears packed in memory and multiply them as they are; figures differ by rounding")
	s.IntVar(&o.Window, "window", 0, "tokens a window (default 2048 or the model's context)")
	s.StringVar(&o.Base, "base", "", "`model` that LoRA adapters are merged into (default: what their configuration names)")
	s.StringVar(&o.Tokenizer, "tokenizer", "", "folder of the tokenizer (default: the source)")
	s.BoolVar(&o.BF16, "bf16", false, "round activations of bfloat16 models to bfloat16, where the CPU is faster at it")
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	memoryOption(s, &o.Memory, "")
	s.BoolVar(&asJSON, "json", false, "print a JSON array, the source first")
	s.BoolVar(&asCSV, "csv", false, "print comma-separated values")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

// compare calls the models what they were called.
func (a *app) compare(ctx context.Context, o lowbit.CompareOptions, names []string, asJSON, asCSV, quiet bool) error {
	p := a.progress(quiet)
	o.Events = p.event
	all, err := lowbit.Compare(ctx, o)
	p.close()
	for i := range all {
		all[i].Path = names[i]
	}
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(a.stdout, all)
	case asCSV:
		return comparedCSV(a.stdout, all)
	}
	return printCompared(a.stdout, all)
}

func printCompared(w io.Writer, all []lowbit.Compared) error {
	var t table
	t.add("model", "format", "size", "bits", "perplexity", "KL mean", "median", "99 %", "same top")
	for _, c := range all {
		cells := []string{c.Path, c.Format, memory.Decimal(c.Bytes), fmt.Sprintf("%.2f", c.BitsPerWeight), fmt.Sprintf("%.4f ± %.4f", c.Perplexity, c.PerplexityError)}
		if d := c.Divergence; d != nil {
			cells = append(cells, fmt.Sprintf("%.5f ± %.5f", d.Mean, d.Error), fmt.Sprintf("%.5f", d.Median), fmt.Sprintf("%.5f", d.P99), fmt.Sprintf("%.2f %%", 100*d.SameTop))
		} else {
			cells = append(cells, "-", "-", "-", "-")
		}
		t.add(cells...)
	}
	if err := t.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d tokens, in %d windows of %d\n", all[0].Tokens, all[0].Windows, all[0].Window)
	return err
}

// comparedCSV writes all figures; what the source has not stays empty.
func comparedCSV(w io.Writer, all []lowbit.Compared) error {
	c := csv.NewWriter(w)
	header := []string{
		"path", "format", "bytes", "bits_per_weight", "perplexity", "perplexity_error",
		"kl_mean", "kl_error", "kl_median", "kl_95", "kl_99", "kl_99_9", "kl_max", "same_top", "same_top_error", "perplexity_ratio", "perplexity_ratio_error",
	}
	_ = c.Write(header) // Flush has the error
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 10, 64) }
	for _, m := range all {
		row := []string{m.Path, m.Format, strconv.FormatInt(m.Bytes, 10), number(m.BitsPerWeight), number(m.Perplexity), number(m.PerplexityError)}
		if d := m.Divergence; d != nil {
			for _, v := range []float64{d.Mean, d.Error, d.Median, d.P95, d.P99, d.P999, d.Maximum, d.SameTop, d.SameTopError, d.Ratio, d.RatioError} {
				row = append(row, number(v))
			}
		}
		for len(row) < len(header) {
			row = append(row, "")
		}
		_ = c.Write(row)
	}
	c.Flush()
	return c.Error()
}
