package lowbit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/fitting"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/modelcard"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/version"
)

// ConvertOptions describe a conversion. Model, Output and Format must be given.
type ConvertOptions struct {
	Model   string // a quantized model, folder or file, in any format that can be read
	Output  string // folder (or file, as the format has it) to make; must not exist
	Format  layout.Format
	Base    string // as in Options
	Workers int    // goroutines; 0 means GOMAXPROCS
	Memory  int64  // as in Options
	Events  func(Event)
	// MaxShardBytes is as in Options.
	MaxShardBytes int64
	// Resume takes over what an interrupted conversion to Output has left,
	// also where only its removal was missing.
	Resume bool
}

// Convert rewrites a quantized model in another format. No code, scale or
// zero-point is changed: what the format cannot hold is refused, with an error
// that wraps layout.ErrUnsupported, before anything is written, and with one that
// wraps ErrSpace if the disk has no room for it. Format
// "dense" writes the dequantized weights, rounded to the model's type.
func Convert(ctx context.Context, o ConvertOptions) error {
	if err := o.Validate(); err != nil {
		return err
	}
	src, err := openModel(o.Model, o.Base)
	if err != nil {
		return err
	}
	defer src.Close()
	fingerprint, err := json.Marshal(map[string]any{
		"format": fmt.Sprintf("%s %+v", o.Format.Name(), o.Format), "max_shard_bytes": o.MaxShardBytes, "version": version.Module(),
	})
	if err != nil {
		return err
	}
	warn := func(text string) {
		if o.Events != nil {
			o.Events(Event{Kind: EventWarning, Message: text})
		}
	}
	stored := fitting.Parts(src)
	plan, workers, err := o.planMemory(src, stored)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Model, err)
	}
	defer plan.Hold()()
	err = checkpoint.Convert(ctx, checkpoint.WriterOptions{
		Out: o.Output, Resume: o.Resume, Warn: warn, Fingerprint: fingerprint, Source: src, Parts: stored, Format: o.Format, MaxShardBytes: o.MaxShardBytes, Workers: workers,
		Ready: modelcard.Made{Format: o.Format}.Ready(src),
		Progress: func(done, total int64) {
			if o.Events != nil {
				o.Events(Event{Kind: EventWrite, Done: int(done), Total: int(total)})
			}
		},
	})
	if errors.Is(err, checkpoint.ErrComplete) {
		return nil
	}
	return err
}

// planMemory finds how many workers there is room for.
func (o *ConvertOptions) planMemory(src *checkpoint.Model, stored []checkpoint.Part) (*MemoryPlan, int, error) {
	var largest int64
	for _, l := range src.Layers() {
		largest = max(largest, int64(l.Out)*int64(l.In))
	}
	for _, p := range stored {
		largest = max(largest, int64(p.Outputs)*int64(p.In))
	}
	_, floats := o.Format.(dense.Format)
	return memory.Converting(cmp.Or(o.Memory, memory.Default()), largest, floats, parallel.Workers(o.Workers))
}
