package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/inputs"
	"github.com/golowbit/lowbit/quant/llmint8"
)

// evalLong is what eval measures, for the help.
const evalLong = `Measure the perplexity of a model, dense or quantized, on text.

The text is cut into windows that do not overlap; the ragged last one is dropped.
All tokens of a window but the first are scored. With --against, the
Kullback-Leibler divergence (nats a token) of the model's predictions from those
of the other model is measured too: its mean and percentiles, how often both have the same
likeliest token, and the ratio of the perplexities. Errors are standard errors over tokens
that are taken for independent. lowbit compare does it for several models.

--task takes multiple-choice questions instead: the choice counts that the model finds likeliest behind
the question, in all (acc) or by character (acc_norm), as in lm-evaluation-harness.

--ids takes token ids instead of text, each array as a window of its own, for which no
tokenizer is needed. --logits writes what the model predicts at every token.`

const evalExamples = `  lowbit eval Llama-3.2-1B-4bit --text heldout.txt --against Llama-3.2-1B

  # weights and activations in 8 bits, outliers in 16
  lowbit quantize Llama-3.2-1B -o Llama-3.2-1B-int8 --method int8
  lowbit eval Llama-3.2-1B-int8 --text heldout.txt --activations int8

  # the logits of two sequences, to compare with another implementation's
  echo '[[1,15,7],[1,3,3]]' > ids.json; lowbit eval Llama-3.2-1B-4bit --ids ids.json --logits out.safetensors

  # in the memory that the codes take
  lowbit eval Llama-3.2-1B-4bit --text heldout.txt --packed`

func (a *app) evalCommand() *cobra.Command {
	var o lowbit.EvalOptions
	var text textFlags
	var ids, logits, task, activations string
	threshold := float32(llmint8.DefaultThreshold)
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:     "eval MODEL (--text FILE | --ids FILE | --task FILE)",
		Short:   "Measure perplexity, and the divergence from another model",
		Long:    evalLong,
		Example: evalExamples,
		Args:    oneArg("model", " (repeat --text for every file)"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Model = args[0]
			if err := checkEval(&o, text.given(), ids, logits, task); err != nil {
				return usageError{err}
			}
			if activations != "" && o.Packed {
				return usageError{errors.New("--packed and --activations: want one of them")}
			}
			if activations != "" {
				o.Int8Inputs = &threshold
			} else if c.Flags().Changed("threshold") {
				return usageError{errors.New("--threshold is for --activations")}
			}
			if task != "" {
				if err := a.model(c.Context(), quiet, &o.Model, &o.Base); err != nil {
					return err
				}
				return a.evalTask(c.Context(), o, task, asJSON, quiet)
			}
			o.Text = text.text(a.stdin)
			if ids != "" {
				var err error
				o.Sequences = true
				if o.Text.IDs, err = inputs.IDs(ids, a.stdin); err != nil {
					return err
				}
			}
			against := o.Against // as it was named
			err := a.model(c.Context(), quiet, &o.Model, &o.Base)
			if err == nil {
				err = a.models(c.Context(), quiet, &o.Against)
			}
			if err != nil {
				return err
			}
			if logits != "" {
				return a.evalLogits(c.Context(), o, logits, asJSON, quiet)
			}
			return a.eval(c.Context(), o, against, asJSON, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	text.register(s, "text", "text to measure on", "")
	text.registerReading(s)
	s.StringVar(&ids, "ids", "", "`file` with token ids instead of text: a JSON array of arrays, of any lengths; - is standard input")
	s.StringVar(&logits, "logits", "", "`file` (safetensors) to write the logits for --ids to, float32: \"logits\" [sequences, tokens, vocabulary], or for sequences of different lengths \"logits.0\" [tokens, vocabulary] and so on; must not exist")
	s.StringVar(&task, "task", "", "`file` of questions (JSON lines) instead of text: each with a context or question, choices, and as answer the index of the right one")
	option(s, "activations", "round the inputs of quantized linears too, as LLM.int8() does: `int8` is 8 bits a token with a scale of its own, multiplied as integers; for models of 8 bits with a scale a row, as of --method int8", known([]string{"int8"}, "type of activations"), func(v string) { activations = v })
	s.Float32Var(&threshold, "threshold", threshold, "`magnitude` from which on --activations leaves an input in 16 bits, with its feature; 0 rounds all")
	s.BoolVar(&o.Packed, "packed", false, "leave quantized linears packed in memory and multiply them as they are, as lowbit generate does; figures differ by rounding")
	s.IntVar(&o.Window, "window", 0, "tokens a window (default 2048 or the model's context)")
	s.StringVar(&o.Against, "against", "", "another model with the same vocabulary, to compare with")
	s.StringVar(&o.Base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	s.StringVar(&o.Tokenizer, "tokenizer", "", "folder of the tokenizer (default: the model)")
	s.BoolVar(&o.BF16, "bf16", false, "round activations of a bfloat16 model to bfloat16, where the CPU is faster at it")
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	memoryOption(s, &o.Memory, "")
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

// checkEval refuses flags of eval that do not go together.
func checkEval(o *lowbit.EvalOptions, text bool, ids, logits, task string) error {
	switch {
	case task != "" && (text || ids != "" || logits != "" || o.Against != "" || o.Window != 0):
		return errors.New("--task takes no --text, --ids, --logits, --against and --window")
	case task != "":
		return nil
	case !text && ids == "":
		return errors.New("no text given: use --text FILE, --ids FILE or --task FILE")
	case text && ids != "":
		return errors.New("--text and --ids: want one of them")
	case logits != "" && ids == "":
		return errors.New("--logits is for --ids")
	}
	return nil
}

func (a *app) eval(ctx context.Context, o lowbit.EvalOptions, against string, asJSON, quiet bool) error {
	p := a.progress(quiet)
	o.Events = p.event
	e, err := lowbit.Evaluate(ctx, o)
	p.close()
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, e)
	}
	return printEvaluation(a.stdout, e, against)
}

func printEvaluation(w io.Writer, e *lowbit.Evaluation, against string) error {
	text := fmt.Sprintf("perplexity     %.4f ± %.4f\n", e.Perplexity, e.PerplexityError)
	if e.KL != nil {
		text += fmt.Sprintf("KL divergence  %.6f nats a token from %s, whose perplexity is %.4f\n", *e.KL, against, *e.Against)
		d := e.Divergence
		for _, line := range []struct {
			name  string
			value float64
		}{{"median", d.Median}, {"95 %", d.P95}, {"99 %", d.P99}, {"99.9 %", d.P999}, {"maximum", d.Maximum}} {
			text += fmt.Sprintf("  %-13s%.6f\n", line.name, line.value)
		}
		text += fmt.Sprintf("  %-13s%.6f ± %.6f\n", "mean", d.Mean, d.Error)
		text += fmt.Sprintf("same top       %.2f ± %.2f %% of the tokens\n", 100*d.SameTop, 100*d.SameTopError)
		text += fmt.Sprintf("ratio          %.5f ± %.5f of the perplexities\n", d.Ratio, d.RatioError)
	}
	text += fmt.Sprintf("tokens         %d scored, in %d windows of %d\n", e.Tokens, e.Windows, e.Window)
	_, err := io.WriteString(w, text)
	return err
}
