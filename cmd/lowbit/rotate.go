package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/rotation"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// rotateLong is what rotate does, for the help.
const rotateLong = `Write a dense model that computes the same and whose residual stream and values of attention
are in other bases, the rotations folded into its weights (MambaQuant, QuaRot; docs/methods.md). quantize
takes the result as any model. A rotation can help and can hurt: auto rounds the model in each to
nearest, at --bits, and takes the one whose predictions diverge least from the unquantized model's.
Models whose norms subtract the mean, or stand behind a sublayer, are refused.`

func (a *app) rotateCommand() *cobra.Command {
	var o lowbit.RotateOptions
	var text textFlags
	var asJSON, quiet bool
	o.Scheme = quant.Scheme{Bits: 4, GroupSize: 128}
	c := &cobra.Command{
		Use:   "rotate MODEL -o OUT --rotation ROTATION",
		Short: "Rotate a model's weights before they are quantized",
		Long:  rotateLong,
		Example: `  lowbit rotate Llama-3.2-1B -o Llama-3.2-1B-rotated --rotation auto --calib text.txt --bits 3
  lowbit quantize Llama-3.2-1B-rotated -o Llama-3.2-1B-rotated-3bit --calib text.txt --bits 3`,
		Args: oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			o.Model, o.Calibration.Text = args[0], text.text(a.stdin)
			switch {
			case o.Output == "":
				return usageError{errors.New("no output given: use -o")}
			case o.Kinds == nil:
				return usageError{errors.New("no rotation given: use --rotation hadamard, klt or auto")}
			case !text.given() && o.Kinds[0] != rotation.Hadamard:
				return usageError{errors.New("no text given, which klt and auto go by: use --calib FILE")}
			}
			if err := o.Scheme.Validate(); err != nil {
				return usageError{err}
			}
			if err := a.model(c.Context(), quiet, &o.Model, &o.Base); err != nil {
				return err
			}
			p := a.progress(quiet)
			o.Step = func(done, total int, _ string) {
				p.event(lowbit.Event{Kind: lowbit.EventProgress, Done: done, Total: total, Message: "measuring"})
			}
			o.Progress = func(done, total int64) {
				p.event(lowbit.Event{Kind: lowbit.EventWrite, Done: int(done), Total: int(total)})
			}
			kind, trials, err := lowbit.Rotate(c.Context(), o)
			p.close()
			if err != nil {
				return err
			}
			if asJSON {
				return unprinted(o.Output, printJSON(a.stdout, struct {
					Output   string           `json:"output"`
					Rotation rotation.Kind    `json:"rotation"`
					Trials   []rotation.Trial `json:"trials,omitempty"`
				}{o.Output, kind, trials}))
			}
			for _, t := range trials {
				if _, err := fmt.Fprintf(a.stdout, "%-8s  %.4g nats a token at %d bits\n", t.Kind, t.KL, o.Scheme.Bits); err != nil {
					return unprinted(o.Output, err)
				}
			}
			_, err = fmt.Fprintf(a.stdout, "%s: rotation %s\n", o.Output, kind)
			return unprinted(o.Output, err)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.StringVarP(&o.Output, "output", "o", "", "folder to write; must not exist")
	option(s, "rotation", "`hadamard` (random signs and a Hadamard matrix), klt (before that the eigenvectors of what the text makes of the residual stream) or auto (the better one by measure, or none)", rotation.Parse, func(k []rotation.Kind) { o.Kinds = k })
	text.register(s, "calib", "text that klt and auto go by", "")
	text.registerReading(s)
	s.IntVar(&o.Calibration.Samples, "samples", 0, "windows of it (default 128)")
	s.IntVar(&o.Calibration.SeqLen, "seq-len", 0, "tokens a window (default 2048 or the model's context)")
	s.IntVarP(&o.Scheme.Bits, "bits", "b", o.Scheme.Bits, "bits that auto measures at")
	s.IntVarP(&o.Scheme.GroupSize, "group-size", "g", o.Scheme.GroupSize, "weights a group that auto measures with; -1 for whole rows")
	s.Uint64Var(&o.Seed, "seed", 0, "`number` that decides the signs")
	option(s, "dtype", "`float32` stores weights unrounded (default: in the model's type)", known([]string{"float32"}, "type"), func(string) { o.DType = safetensors.F32 })
	s.StringVar(&o.Base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	option(s, "max-shard-size", "split the output into files of at most this `size`, such as 5GB or 500MB", parseSize, func(n int64) { o.MaxShardBytes = n })
	s.BoolVar(&o.Resume, "resume", false, "take over what an interrupted run left in OUT.partial")
	memoryOption(s, &o.Memory, "")
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}
