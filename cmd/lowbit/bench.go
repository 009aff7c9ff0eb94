package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/bench"
)

func (a *app) benchCommand() *cobra.Command {
	var o bench.Options
	var asJSON, quick bool
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine, and lowbit on it",
		Long: `Measure what this machine can do (fma: multiply-adds in registers; memcpy: memory
beyond the caches) and beside it what lowbit makes of it: products, factorization,
GPTQ of whole layers, round-to-nearest (one core), and the forward pass of a Llama of
1.1 B parameters.

Every line has what would be reached if nothing but the part that bounds it took time:
fma, memory, or the product of two 4096 x 4096 matrices just measured (gemm).
Figures are medians; on a machine that others use too, repeat and compare within a run.`,
		Example: `  lowbit bench --quick
  lowbit bench --threads 1 --json`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Threads < 0 {
				return usageError{fmt.Errorf("threads %d, want a positive number or 0 for all cores", o.Threads)}
			}
			if quick {
				o.Runs = 1
			}
			return a.bench(c.Context(), o, asJSON)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.IntVar(&o.Threads, "threads", 0, "goroutines (default: all cores)")
	s.BoolVar(&quick, "quick", false, "one run of each instead of the median of five")
	s.BoolVar(&asJSON, "json", false, "print one JSON object a line")
	s.IntVar(&o.Shrink, "shrink", 1, "divide all sizes, for tests")
	cobra.CheckErr(s.MarkHidden("shrink"))
	return c
}

func (a *app) bench(ctx context.Context, o bench.Options, asJSON bool) error {
	if !asJSON {
		if _, err := fmt.Fprintf(a.stdout, "kernels: %s\n%-20s %10s %-9s %10s\n", bench.Level(), "name", "value", "", "bound"); err != nil {
			return err
		}
	}
	return bench.Run(ctx, o, func(r bench.Result) error {
		if asJSON {
			return printJSON(a.stdout, r)
		}
		_, err := fmt.Fprintf(a.stdout, "%-20s %10.4g %-9s %10.4g by %s (%.0f %%)\n", r.Name, r.Value, r.Unit, r.Floor, r.BoundBy, 100*r.Share())
		return err
	})
}
