package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/internal/memory"
)

func (a *app) planCommand() *cobra.Command {
	var f quantizeFlags
	c := &cobra.Command{
		Use:   "plan MODEL [flags of quantize]",
		Short: "Print what memory, disk and time quantize would need",
		Long: `Print what memory quantize would need with the same flags, what of the text would lie
in a file beside the output, what all this and the result take of the disk, and about how
long it would take on this machine without --eval, by a measurement of about a second. The
text is read, since its length matters. quantize refuses what does not fit in memory, and a result for
which the disk of -o surely has no room, before any work.`,
		Example: `  lowbit plan Llama-3.2-1B --calib wiki.txt --memory 4GiB`,
		Args:    oneArg("model", ""),
		RunE: func(c *cobra.Command, args []string) error {
			f.printConfig = true // no output is needed
			o, err := f.options(c, args[0], a.stdin)
			if err != nil {
				return usageError{err}
			}
			if err := a.model(c.Context(), f.quiet, &o.Model, &o.Base); err != nil {
				return err
			}
			return a.plan(c.Context(), o, f.json)
		},
	}
	f.register(c.Flags())
	return c
}

// foreseen is what --json prints.
type foreseen struct {
	Memory  *lowbit.MemoryPlan `json:"memory"`
	Peak    int64              `json:"peak"`
	Disk    *lowbit.DiskSpace  `json:"disk,omitempty"`
	Seconds float64            `json:"seconds"`
}

func (a *app) plan(ctx context.Context, o lowbit.Options, asJSON bool) error {
	p, err := lowbit.Foresee(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(a.stdout, foreseen{p.Memory, p.Memory.Peak(), p.Disk, p.Seconds})
	}
	var t table
	for _, part := range p.Memory.Parts {
		if part.Bytes > 0 {
			t.add(part.Name, memory.Size(part.Bytes))
		}
	}
	for _, moment := range p.Memory.Moments {
		t.add(moment.Name+", by itself", memory.Size(moment.Bytes))
	}
	t.add("at most", memory.Size(p.Memory.Peak()))
	if p.Memory.Limit > 0 {
		t.add("allowed", memory.Size(p.Memory.Limit))
	}
	if p.Memory.InFile > 0 {
		t.add("in a file", memory.Size(p.Memory.InFile))
	}
	if d := p.Disk; d != nil {
		t.add("on the disk", memory.Size(d.Most()))
		t.add("  result", memory.Size(d.Output))
		if d.Kept > 0 {
			t.add("  finished layers", memory.Size(d.Kept))
		}
		if d.Free >= 0 {
			t.add("  free there", memory.Size(d.Free))
		}
	}
	if err := t.write(a.stdout); err != nil {
		return err
	}
	text := fmt.Sprintf("about %v\n", time.Duration(p.Seconds+1)*time.Second)
	if p.Memory.Passes > 1 {
		text = fmt.Sprintf("the text goes through a block up to %d times: its statistics do not fit at once\n", p.Memory.Passes) + text
	}
	_, err = io.WriteString(a.stdout, text)
	return err
}
