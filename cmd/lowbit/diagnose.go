package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/diagnose"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/report"
	"github.com/golowbit/lowbit/internal/version"
)

func (a *app) diagnoseCommand() *cobra.Command {
	o := diagnose.Options{Method: "gptq", Bits: 4, Idle: 0.5}
	var text textFlags
	var page string
	var only, asJSON, quiet bool
	c := &cobra.Command{
		Use:   "diagnose MODEL --text FILE [--text FILE]...",
		Short: "Show outliers and idle heads, and what they and a quantization owe to the text",
		Long: `Run a model on texts, and show for each what makes the model hard to quantize: infinity norms and
kurtosis of what layers read and of the residual stream, outlier features (6 or more in
magnitude in 25 % of the blocks and at 6 % of the tokens) and idle heads, which spend their attention
on the first token, on nothing, or on separators (punctuation, blanks, special tokens) beyond their share.

Then quantize the model on each text, AdaDim choosing the axis of every layer, and show how its choices move
and what perplexity each result has on each text. Half of the windows is for that alone. ` + "`random`" + ` for a
FILE is tokens drawn at random.`,
		Example: `  lowbit diagnose Llama-3.2-1B --text wiki.txt --text heldout.txt --text random --report texts.html

  # activations only
  lowbit diagnose Llama-3.2-1B --text wiki.txt --no-quantize`,
		Args: oneArg("model", " (repeat --text for every file)"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Model = args[0]
			if only {
				o.Method = ""
			}
			if !text.given() {
				return usageError{errors.New("no text given: use --text FILE")}
			}
			var err error
			if o.Texts, err = diagnose.Apart(text.text(a.stdin)); err != nil {
				return err
			}
			if err := a.model(c.Context(), quiet, &o.Model, &o.Base); err != nil {
				return err
			}
			return a.diagnose(c.Context(), o, args[0], page, asJSON, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	text.register(s, "text", "text to compare", "")
	text.registerReading(s)
	option(s, "samples", "`windows` of each text that are looked at and calibrated on, and as many to measure on (default 16)", atLeast(1, "samples"), func(n int) { o.Samples = n })
	option(s, "seq-len", "`tokens` a window (default 512 or the model's context)", atLeast(2, "tokens"), func(n int) { o.SeqLen = n })
	s.Float64Var(&o.Idle, "idle", o.Idle, "list heads that spend this `share` of their attention so (default 0.5)")
	s.BoolVar(&only, "no-quantize", false, "look at activations and heads only")
	option(s, "method", "how the model is quantized: `gptq or rtn` (default gptq)", known([]string{"gptq", "rtn"}, "method"), func(v string) { o.Method = v })
	s.IntVar(&o.Bits, "bits", o.Bits, "bits a weight, 2 to 8 (default 4)")
	s.IntVar(&o.GroupSize, "group-size", 0, "weights that share a scale (default 128)")
	s.StringVar(&page, "report", "", "`file` for a page (HTML) with pictures")
	s.StringVar(&o.Base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	memoryOption(s, &o.Memory, "")
	s.BoolVar(&asJSON, "json", false, "print one JSON object, with every layer and head")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

func (a *app) diagnose(ctx context.Context, o diagnose.Options, name, page string, asJSON, quiet bool) error {
	p := a.progress(quiet)
	o.Events = p.event
	r, err := diagnose.Run(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	r.Model = name
	if page != "" {
		if err := report.WriteDiagnosis(page, strings.TrimSpace(version.Line()), r); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(a.stdout, r)
	}
	return r.Print(a.stdout)
}
