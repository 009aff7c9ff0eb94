package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
)

func (a *app) convertCommand() *cobra.Command {
	var o lowbit.ConvertOptions
	var format formatFlags
	var asJSON, quiet bool
	c := &cobra.Command{
		Use:   "convert MODEL -o OUT --format FORMAT",
		Short: "Rewrite a quantized model in another format",
		Long: `Rewrite a quantized model in another format without changing a code, scale or
zero-point. What the format cannot hold is refused before anything is written.
Format dense writes the dequantized weights, rounded to the model's type; it takes a
model that is not quantized too: PyTorch's or Mistral's files, or a LoRA adapter merged
into its base, come out as a folder of safetensors files. That of a GGUF file has its
tokenizer, chat templates and generation_config.json too. Of a GGUF model in several
files any part, or the folder, stands for the whole, as for every verb.`,
		Example: `  lowbit convert Llama-3.2-1B-rtn -o Llama-3.2-1B-gptq --format gptq
  lowbit convert Llama-3.2-1B-rtn -o Llama-3.2-1B.gguf --format gguf`,
		Args: oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			o.Model = args[0]
			var err error
			if o.Format, err = format.of(""); err != nil {
				return usageError{err}
			}
			switch {
			case o.Output == "":
				return usageError{fmt.Errorf("no output given: use -o")}
			case o.Format == nil:
				return usageError{fmt.Errorf("no format given: use --format, one of %s", strings.Join(formatNames(), ", "))}
			}
			if err := a.model(c.Context(), quiet, &o.Model, &o.Base); err != nil {
				return err
			}
			before, err := lowbit.InspectAdapter(o.Model, o.Base)
			if err != nil {
				return err
			}
			p := a.progress(quiet)
			o.Events = p.event
			err = phases.In(c.Context(), phases.Writing, func() error { return lowbit.Convert(c.Context(), o) })
			p.close()
			if err != nil {
				return err
			}
			return a.converted(o, before, asJSON)
		},
	}
	s := c.Flags()
	s.SortFlags = false
	s.StringVarP(&o.Output, "output", "o", "", "folder (or file, for gguf) to write; must not exist")
	s.StringVar(&o.Base, "base", "", "`model` that a LoRA adapter is merged into (default: what its configuration names)")
	format.register(s, "", &o.MaxShardBytes)
	s.BoolVar(&o.Resume, "resume", false, "take over what an interrupted conversion left in OUT.partial")
	memoryOption(s, &o.Memory, ": as many layers at a time as fit")
	s.IntVar(&o.Workers, "workers", 0, "goroutines (default: all cores)")
	s.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	return c
}

// converted says what has become of the model. It is complete: that it cannot
// be looked at, because it is gone already for example, is no failure.
func (a *app) converted(o lowbit.ConvertOptions, before *lowbit.Info, asJSON bool) error {
	var engines []layout.Note
	var bytes int64
	after, err := lowbit.Inspect(o.Output)
	if err == nil {
		bytes = after.FileBytes
		var m *checkpoint.Model
		if m, err = checkpoint.Open(o.Output); err == nil {
			engines = m.Engines()
			err = m.Close()
		}
	}
	if err != nil {
		a.note(fmt.Sprintf("note: the result is complete, and cannot be read back: %v", err))
	}
	if asJSON {
		return unprinted(o.Output, printJSON(a.stdout, struct {
			Output      string `json:"output"`
			Format      string `json:"format"`
			BytesBefore int64  `json:"bytes_before"`
			BytesAfter  int64  `json:"bytes_after"`
			Layers      int    `json:"layers"`

			Engines []layout.Note `json:"engines"`
		}{o.Output, o.Format.Name(), before.FileBytes, bytes, len(before.Quantized), engines}))
	}
	_, err = fmt.Fprintf(a.stdout, "%s (%s): %d layers, %s before, %s after\nengines that load it: %s\n",
		o.Output, o.Format.Name(), len(before.Quantized), memory.Decimal(before.FileBytes), memory.Decimal(bytes), readers(engines))
	return unprinted(o.Output, err)
}
