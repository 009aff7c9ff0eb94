package main

import (
	"context"
	"fmt"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/measure"
)

// openToRun opens a model, or an adapter merged into one.
func openToRun(path, base string, bf16 bool, workers int) (*measure.Model, error) {
	src, err := checkpoint.OpenMerged(path, base)
	if err != nil {
		return nil, err
	}
	return measure.Open(src, bf16, workers)
}

// evalTask has a model answer questions.
func (a *app) evalTask(ctx context.Context, o lowbit.EvalOptions, task string, asJSON, quiet bool) error {
	questions, err := measure.ReadQuestions(task)
	if err != nil {
		return err
	}
	m, err := openToRun(o.Model, o.Base, o.BF16, o.Workers)
	if err != nil {
		return err
	}
	defer m.Close()
	if o.Packed {
		m.Packed()
	}
	if o.Int8Inputs != nil {
		if err := m.Int8Inputs(*o.Int8Inputs); err != nil {
			return err
		}
	}
	p := a.progress(quiet)
	r, err := measure.Task(ctx, m, o.Tokenizer, questions, o.Memory, func(done, total int, model string) {
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: model})
	})
	p.close()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", task, err)
	case asJSON:
		return printJSON(a.stdout, r)
	}
	_, err = fmt.Fprintf(a.stdout, "acc            %.4f ± %.4f\nacc_norm       %.4f ± %.4f\nquestions      %d\n", r.Acc, r.AccError, r.AccNorm, r.AccNormError, r.Questions)
	return err
}
