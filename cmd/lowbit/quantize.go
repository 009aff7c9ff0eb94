package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

func (a *app) quantizeCommand() *cobra.Command {
	var f quantizeFlags
	c := &cobra.Command{
		Use:   "quantize MODEL -o OUT",
		Short: "Quantize a model folder",
		Long: `Quantize a Hugging Face model folder (Llama, Mistral, Qwen2, Qwen3) block by block.

The output appears under its name only when it is complete. An interrupted run
leaves its finished layers in OUT.partial; the same command with --resume goes on.
A table of layers is printed at the end; loss is the squared error of a layer's
output relative to that output, margin is ln(loss of ic / loss of oc).`,
		Example: `  # 4 bits, groups of 128, GPTQ, AdaDim choosing the axis
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-lowbit --calib wiki.txt

  # 3 bits, and perplexity before and after
  lowbit quantize Llama-3.2-1B -o out --bits 3 --group-size 64 --calib wiki.txt --eval heldout.txt

  # round to nearest: no calibration text, as fast as the disk
  lowbit quantize Llama-3.2-1B -o out --method rtn --axis oc`,
		Args: oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(c, args[0])
			if err != nil {
				return usageError{err}
			}
			return a.quantize(c.Context(), o, &f)
		},
	}
	f.register(c.Flags())
	return c
}

// quantizeResult is what --json prints.
type quantizeResult struct {
	*lowbit.Report
	Engines    []string           `json:"engines"` // those that load it
	Evaluation *lowbit.Evaluation `json:"evaluation,omitempty"`
}

func (a *app) quantize(ctx context.Context, o lowbit.Options, f *quantizeFlags) error {
	// What is wrong with the text to measure on is better known before the work.
	for _, name := range f.eval {
		if _, err := os.Stat(name); err != nil {
			return err
		}
	}
	if f.target != "" {
		if err := a.checkTarget(o, f.target); err != nil {
			return err
		}
	}
	p := a.progress(f.quiet)
	finished, layers := 0, 0
	o.Events = func(e lowbit.Event) {
		if e.Kind == lowbit.EventLayer {
			finished, layers = e.Done, e.Total
		}
		p.event(e)
	}
	report, err := lowbit.Quantize(ctx, o)
	p.close()
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return interrupted{a.howToResume(o.Output, finished, layers)}
		}
		if errors.Is(err, lowbit.ErrOptions) && strings.Contains(err.Error(), "needs calibration text") {
			return fmt.Errorf("%w: use --calib FILE", err)
		}
		return err
	}
	result := quantizeResult{Report: report, Engines: readers(report)}
	if len(f.eval) > 0 {
		result.Evaluation, err = lowbit.Evaluate(ctx, lowbit.EvalOptions{
			Model: o.Output, Against: o.Model, Tokenizer: o.Model,
			Text:   lowbit.Text{Files: f.eval, PerDocument: f.perDocument},
			Window: f.window, Workers: f.workers, Events: p.event,
		})
		p.close()
		if err != nil {
			return fmt.Errorf("%s is complete, but measuring it failed: %w", o.Output, err)
		}
	}
	if f.json {
		return printJSON(a.stdout, result)
	}
	return printReport(a.stdout, result)
}

// checkTarget refuses, before any work, what the engine would not load.
func (a *app) checkTarget(o lowbit.Options, engine string) error {
	notes, err := lowbit.Engines(o)
	if err != nil {
		return err
	}
	for _, n := range notes {
		switch {
		case n.Engine != engine:
		case !n.Accepted:
			return fmt.Errorf("--target: %v", n)
		case n.Reason != "":
			fmt.Fprintf(a.stderr, "note: %v\n", n)
		}
	}
	return nil
}

// howToResume is the message after an interrupt.
func (a *app) howToResume(output string, finished, layers int) string {
	partial := output + checkpoint.PartialSuffix
	if _, err := os.Stat(partial); err != nil {
		return "interrupted; nothing was finished, nothing is left behind"
	}
	words := []string{"lowbit"}
	resume := false
	for _, w := range a.args {
		resume = resume || w == "--resume"
		words = append(words, quoted(w))
	}
	if !resume {
		words = append(words, "--resume")
	}
	return fmt.Sprintf("interrupted after %d of %d layers, which are kept in %s; go on with: %s",
		finished, layers, partial, strings.Join(words, " "))
}

// quoted is a word as a POSIX shell takes it.
func quoted(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./=+,:@%", r)
	}
	if w != "" && strings.IndexFunc(w, func(r rune) bool { return !plain(r) }) < 0 {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// readers names the engines that load the result.
func readers(r *lowbit.Report) []string {
	var layers []layout.Layer
	for _, l := range r.Layers {
		if !l.Dense {
			layers = append(layers, layout.Layer{Name: l.Name, Out: l.Out, In: l.In, Scheme: l.Scheme})
		}
	}
	names := []string{"lowbit"}
	format, err := checkpoint.Lookup(r.Format)
	if err != nil {
		return names
	}
	for _, n := range checkpoint.Engines(format, layers) {
		if n.Accepted {
			names = append(names, n.Engine)
		}
	}
	return names
}

func printReport(w io.Writer, r quantizeResult) error {
	var t table
	t.add("layer", "arm", "loss", "margin", "bits", "seconds")
	for _, l := range r.Layers {
		switch {
		case l.Dense:
			t.add(l.Name, "dense", "-", "-", "-", "-")
		case l.Decision == nil: // no calibration text, so nothing was measured
			t.add(l.Name, l.Arm, "-", "-", fmt.Sprintf("%.3f", l.Bits), "-")
		default:
			margin := "-"
			if len(l.Decision.Candidates) > 1 {
				margin = fmt.Sprintf("%+.3f", l.Margin)
			}
			t.add(l.Name, l.Arm, fmt.Sprintf("%.3g", l.Loss), margin, fmt.Sprintf("%.3f", l.Bits), fmt.Sprintf("%.2f", l.Seconds))
		}
	}
	if err := t.write(w); err != nil {
		return err
	}
	text := fmt.Sprintf("\n%s (%s): %s before, %s after; %.3f bits per quantized weight; %.1f s\n",
		r.Output, r.Format, size(r.BytesBefore), size(r.BytesAfter), r.BitsPerWeight, r.Seconds)
	text += "engines that load it: " + strings.Join(r.Engines, ", ") + "\n"
	if e := r.Evaluation; e != nil {
		text += fmt.Sprintf("perplexity %.4f before, %.4f after; KL divergence %.4f; %d tokens in windows of %d\n",
			*e.Against, e.Perplexity, *e.KL, e.Tokens, e.Window)
	}
	_, err := io.WriteString(w, text)
	return err
}
