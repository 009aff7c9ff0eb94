// Command model quantizes a whole model through the library, with progress,
// and measures what it has cost.
//
//	go run ./examples/model
//
// Without flags it takes the model in testdata.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/golowbit/lowbit"
)

func main() {
	dir := flag.String("model", "testdata/tinyllama-2m", "folder of the model")
	text := flag.String("text", "testdata/tinyllama-2m-text", "folder of calibration.txt and heldout.txt")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *dir, *text); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout io.Writer, model, text string) error {
	tmp, err := os.MkdirTemp("", "lowbit-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	// 4 bits, groups of 128, by GPTQ with AdaDim choosing for every layer. Without
	// Preset it would be Best, which is slower.
	o := lowbit.Options{
		Model: model, Output: filepath.Join(tmp, "quantized"),
		Preset: lowbit.Fast, Bits: 4, GroupSize: 128,
		Calibration: lowbit.Calibration{
			Text:    lowbit.Text{Files: []string{filepath.Join(text, "calibration.txt")}, PerDocument: true},
			Samples: 32, SeqLen: 256,
		},
		Events: func(e lowbit.Event) {
			switch e.Kind {
			case lowbit.EventBlock:
				fmt.Fprintf(stdout, "block %d of %d\n", e.Block+1, e.Blocks)
			case lowbit.EventWarning:
				fmt.Fprintf(stdout, "warning: %s: %s\n", e.Name, e.Message)
			}
		},
	}
	report, err := lowbit.Quantize(ctx, o)
	if err != nil {
		return err
	}
	arms := map[string]int{}
	for _, l := range report.Layers {
		arms[l.Arm]++
	}
	fmt.Fprintf(stdout, "%d layers, %v; %d bytes before, %d after; %.3f bits a weight\n",
		len(report.Layers), arms, report.BytesBefore, report.BytesAfter, report.BitsPerWeight)

	e, err := lowbit.Evaluate(ctx, lowbit.EvalOptions{
		Model: report.Output, Against: model,
		Text:   lowbit.Text{Files: []string{filepath.Join(text, "heldout.txt")}, PerDocument: true},
		Window: 256,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "perplexity %.3f before, %.3f after; KL divergence %.4f nats a token\n", *e.Against, e.Perplexity, *e.KL)
	if e.Perplexity > 1.05**e.Against {
		return fmt.Errorf("4 bits cost more than 5 %% of perplexity: %g after %g", e.Perplexity, *e.Against)
	}
	return nil
}
