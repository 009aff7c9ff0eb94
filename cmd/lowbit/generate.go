package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/generation"
)

func (a *app) generateCommand() *cobra.Command {
	o := generation.Options{MaxTokens: 128, Temperature: 0.8, TopK: 40, TopP: 0.95, Seed: 1}
	var base string
	var workers int
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "generate MODEL [--prompt TEXT]",
		Short: "Have a model, dense or quantized, write",
		Long: `Have a model, dense or quantized, continue a text, or answer by its chat template.

Quantized layers stay packed in memory and are multiplied as they are; all else is float32. The same seed gives the same text on the same kind of CPU.`,
		Example: `  lowbit generate Llama-3.2-1B-4bit --prompt "Once upon a time" --max-tokens 40

  # an answer, always the likeliest token
  lowbit generate Llama-3.2-1B --chat --prompt "What is a scale?" --temperature 0

  # a long prompt
  head -c 300 text.txt | lowbit generate Llama-3.2-1B --prompt - --max-tokens 20`,
		Args: oneArg("model", " (put the prompt in quotes, behind --prompt)"),
		RunE: func(c *cobra.Command, args []string) error {
			if err := a.model(c.Context(), quiet, &args[0], &base); err != nil {
				return err
			}
			if o.Prompt == "-" {
				data, err := io.ReadAll(a.stdin)
				if err != nil {
					return fmt.Errorf("standard input: %w", err)
				}
				o.Prompt = strings.TrimSuffix(string(data), "\n")
			}
			return a.generate(c.Context(), args[0], base, workers, o, asJSON, quiet)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.StringVarP(&o.Prompt, "prompt", "p", "", "`text` to continue; - is standard input (default: nothing but the token that a text begins with)")
	s.BoolVar(&o.Chat, "chat", false, "take the prompt for a question, and have the model answer by its chat template")
	s.StringVar(&o.System, "system", "", "`text` that --chat tells the system first")
	s.IntVarP(&o.MaxTokens, "max-tokens", "n", o.MaxTokens, "`tokens` to write at most")
	s.Float64Var(&o.Temperature, "temperature", o.Temperature, "what predictions are divided by before a token is drawn; 0 takes the likeliest token, always")
	s.IntVar(&o.TopK, "top-k", o.TopK, "draw from the likeliest `tokens` only, so many; 0 for all")
	s.Float64Var(&o.TopP, "top-p", o.TopP, "draw from the likeliest tokens that together have this `probability`; 1 for all")
	s.Uint64Var(&o.Seed, "seed", o.Seed, "`number` that decides what is drawn")
	s.StringVar(&base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	s.StringVar(&o.Tokenizer, "tokenizer", "", "folder of the tokenizer (default: the model)")
	s.IntVar(&workers, "workers", 0, "goroutines (default: all cores)")
	memoryOption(s, &o.Memory, "")
	s.BoolVar(&asJSON, "json", false, "print one JSON object, at the end")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress, and no times behind the text")
	return c
}

func (a *app) generate(ctx context.Context, path, base string, workers int, o generation.Options, asJSON, quiet bool) error {
	m, err := openToRun(path, base, false, workers)
	if err != nil {
		return err
	}
	defer m.Close()
	p := a.progress(quiet)
	o.Step = func(done, total int) {
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: "loading"})
		if done == total {
			p.close() // the text follows
		}
	}
	if !asJSON {
		o.Told = func(piece string) error {
			_, err := io.WriteString(a.stdout, piece)
			return err
		}
	}
	w, err := generation.Run(ctx, m, o)
	p.close()
	switch {
	case errors.Is(err, generation.ErrOptions):
		return usageError{err}
	case err != nil:
		return err
	case asJSON:
		return printJSON(a.stdout, w)
	}
	if _, err := io.WriteString(a.stdout, "\n"); err != nil || quiet {
		return err
	}
	a.note(fmt.Sprintf("%d tokens behind %d, %.1f a second", w.Tokens, w.PromptTokens, w.PerSecond()))
	return nil
}
