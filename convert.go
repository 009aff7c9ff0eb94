package lowbit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// ConvertOptions describe a conversion. Model, Output and Format must be given.
type ConvertOptions struct {
	Model   string // a quantized model, folder or file, in any format that can be read
	Output  string // folder (or file, as the format has it) to make; must not exist
	Format  layout.Format
	Base    string // as in Options
	Workers int    // goroutines; 0 means GOMAXPROCS
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
		"format": fmt.Sprintf("%s %+v", o.Format.Name(), o.Format), "max_shard_bytes": o.MaxShardBytes, "version": moduleVersion(),
	})
	if err != nil {
		return err
	}
	warn := func(text string) {
		if o.Events != nil {
			o.Events(Event{Kind: EventWarning, Message: text})
		}
	}
	err = checkpoint.Convert(ctx, checkpoint.WriterOptions{
		Out: o.Output, Resume: o.Resume, Warn: warn, Fingerprint: fingerprint, Source: src, Parts: convertedParts(src), Format: o.Format, MaxShardBytes: o.MaxShardBytes, Workers: o.Workers,
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
