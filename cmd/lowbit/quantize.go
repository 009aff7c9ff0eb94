package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
)

func (a *app) quantizeCommand() *cobra.Command {
	var f quantizeFlags
	c := &cobra.Command{
		Use:   "quantize MODEL -o OUT",
		Short: "Quantize a model folder",
		Long: `Quantize a Hugging Face model folder block by block, or a
GGUF file: what is quantized in it is taken for the values that it stands for, and said.
MODEL may be ORG/NAME or ORG/NAME@REVISION on the hub too, for every verb: it is taken
from the hub's cache or loaded into it.

` + quantizeRule + `

What can be known beforehand is asked before the work: the texts of --calib and --eval
are read, and memory, disk, names, shapes and types are checked. The output appears
under its name only when it is complete, and measured if --eval is given; nothing can
fail any more then. An interrupted run
leaves its finished layers in OUT.partial; the same command with --resume goes on.
A table of layers is printed at the end; loss is the squared error of a layer's
output relative to that output, margin is ln(loss of ic / loss of oc). Sizes are
those of the files of weights.`,
		Example: `  # 4 bits, groups of 128, preset best
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-4bit --calib wiki.txt

  # 3 bits, and perplexity before and after
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-3bit --bits 3 --group-size 64 --calib wiki.txt --eval heldout.txt

  # a model on the hub
  lowbit quantize Qwen/Qwen3-0.6B -o Qwen3-0.6B-4bit --calib wiki.txt

  # a file for llama.cpp and Ollama
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-Q4_K_M.gguf --target llama.cpp --gguf-type Q4_K_M --calib wiki.txt

  # what a target means for this model
  lowbit quantize Llama-3.2-1B --target vllm --print-config

  # round to nearest: no calibration text, as fast as the disk
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-rtn --method rtn --axis oc`,
		Args: oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(c, args[0], a.stdin)
			if err != nil {
				return usageError{err}
			}
			if err := a.model(c.Context(), f.quiet, &o.Model, &o.Base); err != nil {
				return err
			}
			if f.printConfig {
				return a.printConfig(o, f.json)
			}
			return a.quantize(c.Context(), o, &f)
		},
	}
	f.register(c.Flags())
	return c
}

func (a *app) quantize(ctx context.Context, o lowbit.Options, f *quantizeFlags) error {
	p := a.progress(f.quiet)
	kept, layers := 0, 0
	told := &quantizeReport{wanted: f.report}
	o.Channels = f.report
	o.Events = func(e lowbit.Event) {
		switch e.Kind {
		case lowbit.EventPlan:
			kept, layers = e.Kept, e.Total
			if e.Plan.Memory != nil && !f.quiet {
				a.note(e.Plan.Memory.String())
			}
			a.noteTarget(e.Plan, o.Target)
		case lowbit.EventLayer:
			kept = e.Kept
		}
		p.event(told.event(e))
	}
	report, err := lowbit.Quantize(ctx, o)
	p.close()
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return interrupted{a.howToResume(o, kept, layers)}
		}
		if errors.Is(err, lowbit.ErrNeedsText) {
			return fmt.Errorf("%w: use --calib FILE", err)
		}
		return unfinished(err, o.Output, kept, layers)
	}
	if few := fewTokens(report); few != "" && !f.quiet {
		a.note(few)
	}
	if report.Part != nil && !report.Part.Merged {
		f.report = false // that of the part that puts the output together is enough
	}
	if err := a.writeReport(ctx, o, report, told); err != nil {
		return fmt.Errorf("%s is complete, but %w", o.Output, err)
	}
	if f.json {
		err = printJSON(a.stdout, report)
	} else {
		err = printReport(a.stdout, report, !f.quiet)
	}
	return unprinted(o.Output, err)
}

// unprinted says of an error in telling of a result that there is one.
func unprinted(output string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s is complete, but the report could not be printed: %w", output, err)
	}
	return err
}

// unfinished adds to an error what is kept, and what can be done with it.
func unfinished(err error, output string, kept, layers int) error {
	measured := errors.Is(err, lowbit.ErrMeasuring)
	if _, there := os.Lstat(output); measured && there == nil {
		return fmt.Errorf("%s is complete since an earlier run: %w", output, err)
	}
	how := "once the cause is gone, the same command with --resume goes on"
	if measured {
		how += ", and without --eval it ends without measuring"
		err = fmt.Errorf("%s was not written: %w", output, err)
	}
	if kept > 0 {
		err = fmt.Errorf("%w (%d of %d layers are finished and kept in %s; %s)", err, kept, layers, output+checkpoint.PartialSuffix, how)
	}
	return err
}

// noteTarget says what the target needs to run the result.
func (a *app) noteTarget(p *lowbit.Plan, engine string) {
	for _, n := range p.Engines {
		if n.Engine == engine && n.Reason != "" {
			a.note(fmt.Sprintf("note: %v", n))
		}
	}
}

// howToResume is the message after an interrupt.
func (a *app) howToResume(o lowbit.Options, kept, layers int) string {
	partial := o.Output + checkpoint.PartialSuffix
	if _, err := os.Stat(partial); err != nil {
		return "interrupted; nothing was finished, nothing is left behind"
	}
	words := []string{"lowbit"}
	resume := !o.Part.Alone()
	for _, w := range a.args {
		resume = resume || w == "--resume"
		words = append(words, quoted(w))
	}
	if !resume {
		words = append(words, "--resume")
	}
	return fmt.Sprintf("interrupted; %d of %d layers are finished and kept in %s; go on with: %s",
		kept, layers, partial, strings.Join(words, " "))
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

// readers names the engines that load the result, and what that rests on.
func readers(notes []layout.Note) string {
	names := []string{"lowbit"}
	for _, n := range notes {
		if n.Accepted {
			names = append(names, fmt.Sprintf("%s (%s)", n.Name(), n.Evidence()))
		}
	}
	return strings.Join(names, ", ")
}

func printReport(w io.Writer, r *lowbit.Report, layers bool) error {
	if layers {
		if err := printLayers(w, r.Layers); err != nil {
			return err
		}
	}
	if p := r.Part; p != nil && p.Missing > 0 {
		_, err := fmt.Fprintf(w, "%v is done; %d layers of others are missing yet: the last part puts %s together\n", p.Part, p.Missing, r.Output)
		return err
	}
	text := ""
	if p := r.Part; p != nil && !p.Merged {
		text = fmt.Sprintf("%v: %s is complete, another part has put it together\n", p.Part, r.Output)
	}
	for _, n := range r.Notes {
		text += n + "\n"
	}
	text += fmt.Sprintf("%s (%s): %s before, %s after; %.3f bits per quantized weight; %.1f s%s\n",
		r.Output, r.Format, memory.Decimal(r.BytesBefore), memory.Decimal(r.BytesAfter), r.BitsPerWeight, r.Seconds, spent(r))
	text += allocated(r.Allocation)
	if t := r.Tuned; t != nil {
		text += fmt.Sprintf("tuned %v: divergence %.4f before, %.4f after on the text held out (step %d of %d)\n", t.What, t.Before, t.After, t.Best, t.Steps)
	}
	text += "engines that load it: " + readers(r.Engines) + "\n"
	if e := r.Evaluation; e != nil {
		text += fmt.Sprintf("perplexity %.4f before, %.4f after; KL divergence %.4f; %d tokens in windows of %d\n",
			*e.Against, e.Perplexity, *e.KL, e.Tokens, e.Window)
	}
	_, err := io.WriteString(w, text)
	return err
}

// spent says what the time without evaluation went to, the longest first, and how much memory
// it took.
func spent(r *lowbit.Report) string {
	var parts []string
	for _, p := range slices.SortedStableFunc(slices.Values(r.Phases), func(a, b lowbit.Phase) int { return cmp.Compare(b.Seconds, a.Seconds) }) {
		if p.Seconds >= 0.05 && p.Seconds >= r.Seconds/100 && p.Name != phases.Evaluation {
			parts = append(parts, fmt.Sprintf("%s %.1f", p.Name, p.Seconds))
		}
	}
	text := ""
	if len(parts) > 0 {
		text = " (" + strings.Join(parts, ", ") + ")"
	}
	if r.PeakMemory > 0 {
		text += ", at most " + memory.Decimal(r.PeakMemory) + " of memory"
	}
	return text
}

// fewTokens says of a text that more of it would help: where a layer has seen fewer than six
// tokens an input, a fifth of the divergence and more are its chance (docs/loss.md).
func fewTokens(r *lowbit.Report) string {
	widest := 0
	for _, l := range r.Layers {
		if !l.Dense {
			widest = max(widest, l.In)
		}
	}
	if r.Tokens == 0 || r.Tokens >= 6*widest {
		return ""
	}
	return fmt.Sprintf("note: %d tokens of calibration text are few for layers of %d inputs: %d or more would make a difference", r.Tokens, widest, 8*widest)
}

// allocated tells how bits were shared out, and what others would have given.
func allocated(a *lowbit.Allocation) string {
	if a == nil {
		return ""
	}
	count := map[string]int{}
	for _, given := range a.Given {
		count[given]++
	}
	var parts []string
	for _, given := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d x %s", count[given], given))
	}
	text := fmt.Sprintf("bits shared out: %.3f a weight, expected to cost %.3g nats a token: %s\nother budgets: ", a.BitsPerWeight, a.Loss, strings.Join(parts, "; "))
	parts = nil
	next := 0.0
	for _, p := range a.Frontier {
		if p.BitsPerWeight >= next {
			parts = append(parts, fmt.Sprintf("%.2f bits %.2g", p.BitsPerWeight, p.Loss))
			next = p.BitsPerWeight + 0.5
		}
	}
	return text + strings.Join(parts, ", ") + "\n"
}

func printLayers(w io.Writer, layers []lowbit.LayerReport) error {
	var t table
	t.add("layer", "arm", "loss", "margin", "bits", "seconds")
	measured := func(format string, v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf(format, *v)
	}
	for _, l := range layers {
		if l.Dense {
			t.add(l.Name, "dense", "-", "-", "-", "-")
			continue
		}
		seconds := "-"
		if l.Seconds > 0 {
			seconds = fmt.Sprintf("%.2f", l.Seconds)
		}
		t.add(l.Name, l.Arm, measured("%.3g", l.Loss), measured("%+.3f", l.Margin), fmt.Sprintf("%.3f", l.Bits), seconds)
	}
	if err := t.write(w); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}
