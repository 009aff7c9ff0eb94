package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/parallel"
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
// safetensors files.
func Convert(ctx context.Context, o WriterOptions) error {
	o.Layers = o.Source.Layers()
	o.Direct = true
	_, toDense := o.Format.(dense.Format)
	if len(o.Layers) == 0 && toDense {
		return convertDense(ctx, o)
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
	source, err := o.Source.Dequantized()
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
		return w.Put(name, q, nil)
	})
	if err == nil {
		err = w.finish(ctx)
	}
	return errors.Join(err, w.Discard())
}
