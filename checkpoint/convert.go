package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/safetensors"
)

// Convert rewrites a quantized model in another format without changing a
// code, scale or zero-point. Out, Source and Format of the options are
// required; Layers and Direct are ignored. Resume goes on where a conversion
// was interrupted, with little to go on with: what counts is that a partial
// folder is no obstacle, and that the error wraps ErrComplete where the result
// is complete already. It fails with an error
// that wraps ErrUnsupported, before anything is written, if the format cannot
// hold every layer. Format dense holds also those that no quant.Weight does
// (layout.ErrNotWeight), and takes models in which nothing is quantized: what
// other files hold, or an adapter merged into its base, as a folder of
// safetensors files. There, a layer whose dequantized weights are beyond the
// range of its type is stored as F32, and Warn is told.
func Convert(ctx context.Context, o WriterOptions) error {
	o.Layers = o.Source.Layers()
	o.Direct = true
	_, toDense := o.Format.(dense.Format)
	o.wide = map[string]bool{}
	for {
		err := convert(ctx, o, toDense)
		var r *rangeError
		if !toDense || !errors.As(err, &r) || o.wide[r.name] {
			return err
		}
		o.wide[r.name] = true
		if o.Warn != nil {
			o.Warn(fmt.Sprintf("%s is stored as F32: %v", r.name, r.err))
		}
	}
}

// rangeError says of which layer or tensor a value is too large for its type.
type rangeError struct {
	name string
	err  error
}

func (e *rangeError) Error() string { return e.err.Error() }
func (e *rangeError) Unwrap() error { return e.err }

// outOfRange wraps an error if it is one of range.
func outOfRange(name string, err error) error {
	if errors.Is(err, safetensors.ErrRange) {
		return &rangeError{name, err}
	}
	return err
}

func convert(ctx context.Context, o WriterOptions, toDense bool) error {
	if len(o.Layers) == 0 && toDense {
		return convertDense(ctx, o)
	}
	if kinds := o.Source.Coded(); kinds != "" && len(o.Layers) == 0 {
		return fmt.Errorf("%s: %w", o.Source.Path(), layout.Unsupported("the model is in %s, and codes of format %s would be rounded anew: format dense holds its values, and quantize rounds them", kinds, o.Format.Name()))
	}
	if len(o.Layers) == 0 {
		return fmt.Errorf("%s: nothing in the model is quantized", o.Source.Path())
	}
	err := convertPacked(ctx, o)
	if toDense && errors.Is(err, layout.ErrNotWeight) {
		return convertDense(ctx, o)
	}
	if errors.Is(err, layout.ErrNotWeight) {
		return fmt.Errorf("%w; format dense holds it", err)
	}
	return err
}

// convertDense passes the model on with its weights dequantized.
func convertDense(ctx context.Context, o WriterOptions) error {
	source, err := o.Source.dequantized(o.wide)
	if err != nil {
		return err
	}
	o.Source, o.Layers = source, nil
	w, err := Create(o)
	if err != nil {
		return err
	}
	return errors.Join(w.finish(ctx), w.Discard())
}

func convertPacked(ctx context.Context, o WriterOptions) error {
	for _, l := range o.Layers {
		if err := o.Format.Check(l); err != nil {
			return fmt.Errorf("format %s: layer %s: %w", o.Format.Name(), l.Name, err)
		}
	}
	w, err := Create(o)
	if err != nil {
		return err
	}
	err = parallel.For(ctx, o.Workers, len(o.Layers), func(i int) error {
		name := o.Layers[i].Name
		if w.Done(name) {
			return nil
		}
		q, err := o.Source.Weight(name)
		if err != nil {
			return err
		}
		return outOfRange(name, w.Put(name, q, nil))
	})
	if err == nil {
		err = w.finish(ctx)
	}
	return errors.Join(err, w.Discard())
}
