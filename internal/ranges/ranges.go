// Package ranges looks, before any work, for layers whose weights are too large
// for the numbers in which they would be stored.
package ranges

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/tensor"
)

// largest is the largest half float. Weights up to half of it have scales that
// are half floats, and so have their rounded values.
const largest = wire.MaxHalf

// Error names a layer that turned out too large for its grid.
type Error struct {
	Layer string
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Source has the weights.
type Source interface {
	// Largest is the greatest absolute value of a matrix. NaN and infinities are
	// errors.
	Largest(name string) (float32, error)
	Matrix(name string) (*tensor.Matrix, error)
}

// Layer is a layer to be quantized.
type Layer struct {
	Name, Tensor string
	Schemes      []quant.Scheme // in one of which
	Half         bool           // the rounded weights are stored as half floats
}

// Check finds the layers that are too large, with the reasons, which wrap
// quant.ErrScaleRange. A weight that is not finite, or cannot be read, is an
// error.
func Check(ctx context.Context, src Source, layers []Layer, workers int) (map[string]error, error) {
	found := map[string]error{}
	var mu sync.Mutex
	err := parallel.For(ctx, workers, len(layers), func(i int) error {
		l := &layers[i]
		most, err := src.Largest(l.Tensor)
		if err != nil || most <= largest/2 {
			return err
		}
		if l.Half {
			err = fmt.Errorf("%w: weights up to %g, which rounding may take beyond %d, the largest half float", quant.ErrScaleRange, most, largest)
		} else {
			err = l.round(ctx, src)
		}
		if err != nil && !errors.Is(err, quant.ErrScaleRange) {
			return err
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			found[l.Name] = err
		}
		return nil
	})
	return found, err
}

// round reports whether a layer can be rounded in every scheme.
func (l *Layer) round(ctx context.Context, src Source) error {
	w, err := src.Matrix(l.Tensor)
	for _, s := range l.Schemes {
		if err == nil {
			_, err = quant.RTN{Workers: 1}.Quantize(ctx, w, s, nil)
		}
	}
	return err
}

// Beyond reports whether a weight is so large that its scales might be no half
// floats.
func Beyond(w *tensor.Matrix) bool {
	for r := range w.Rows {
		for _, v := range w.Row(r) {
			if !(v <= largest/2 && v >= -largest/2) {
				return true
			}
		}
	}
	return false
}
