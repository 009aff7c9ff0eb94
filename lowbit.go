// Package lowbit quantizes large language models to 2–8 bits on a CPU: a
// Hugging Face folder in, a folder of packed weights out.
//
// Quantize goes through a model block by block: it observes the inputs of
// every linear layer on calibration text, lets a quantization method put the
// layer's weights on a low-bit grid, writes them, and goes on. By default
// the method is GPTQ and AdaDim chooses for every layer whether groups lie
// inside output or input channels. Methods are plugged in: whatever
// implements quant.Quantizer can be run over a whole model, alone or under
// AdaDim.
//
// An arm is one way to lay out the groups of a layer: inside output channels
// (axis oc) or inside input channels (axis ic), with or without one scale per
// input (oc+in) or per output row (ic+row) outside the groups.
//
// Resolve says, without doing work, what Quantize will do with given options.
// Evaluate measures perplexity, and the divergence from another model.
package lowbit

import (
	"errors"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/faults"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/walk"
)

var (
	// ErrOptions is wrapped by errors about options that make no sense.
	ErrOptions = faults.ErrOptions
	// ErrMeasuring is wrapped where the text to measure on (Options.Evaluation) was
	// sound, and the result could not be run on it: it does not get its name.
	ErrMeasuring = errors.New("the result could not be measured")
	// ErrNeedsText is wrapped, with ErrOptions, where calibration text is
	// needed and none is given.
	ErrNeedsText = errors.New("this method needs calibration text")
	// ErrNotFinite is wrapped where a model computes NaN or an infinity.
	ErrNotFinite = walk.ErrNotFinite
	// ErrMemory is wrapped where work does not fit into the memory it may use.
	ErrMemory = memory.ErrTooLittle
	// ErrSpace is wrapped where the disk has no room for the result.
	ErrSpace = checkpoint.ErrSpace
	// ErrTarget is wrapped where the engine that Options.Target names would not
	// load the result.
	ErrTarget = errors.New("target")
)

// badOptions returns an error that wraps ErrOptions.
func badOptions(format string, args ...any) error { return faults.Options(format, args...) }
