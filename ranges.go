package lowbit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/internal/parallel"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// largestHalf is the largest half float. Weights up to half of it have scales
// that are half floats, and so have their rounded values.
const largestHalf = 65504

// checkRanges looks for layers whose scales, or in format dense whose rounded
// weights, would be out of the range of their type, and for NaN and infinities,
// before the work of hours.
func (j *job) checkRanges(ctx context.Context) (map[string]error, error) {
	found := map[string]error{}
	var mu sync.Mutex
	_, written := j.set.format.(dense.Format)
	err := parallel.For(ctx, j.set.workers, len(j.order), func(i int) error {
		p := j.order[i]
		if p.dense {
			return nil
		}
		most, err := j.layers.Largest(p.name + ".weight")
		if err != nil || most <= largestHalf/2 {
			return err
		}
		if written && p.dtype == safetensors.F16 {
			err = fmt.Errorf("%w: weights up to %g, which rounding may take beyond %d, the largest of %s", quant.ErrScaleRange, most, largestHalf, p.dtype)
		} else {
			err = j.roundable(ctx, p)
		}
		if err != nil && !errors.Is(err, quant.ErrScaleRange) {
			return err
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			found[p.name] = err
		}
		return nil
	})
	return found, err
}

// roundable reports whether a layer can be rounded along each axis.
func (j *job) roundable(ctx context.Context, p *layerPlan) error {
	w, err := j.layers.Matrix(p.name + ".weight")
	for _, a := range p.arms {
		if err == nil {
			_, err = quant.RTN{Workers: 1}.Quantize(ctx, w, p.layer(a).Scheme, nil)
		}
	}
	return err
}

// rangeError names a layer of which a scale is out of range.
type rangeError struct {
	layer string
	err   error
}

func (e *rangeError) Error() string { return e.err.Error() }
func (e *rangeError) Unwrap() error { return e.err }

// outOfRange wraps an error about a layer if it is one of range.
func outOfRange(layer string, err error) error {
	if errors.Is(err, quant.ErrScaleRange) || errors.Is(err, safetensors.ErrRange) {
		return &rangeError{layer, err}
	}
	return err
}

// leaveDense plans anew, with layers dense that cannot be put on a grid.
func (j *job) leaveDense(o Options, layers map[string]error) error {
	if len(layers) == 0 {
		return nil
	}
	if j.set.tooLarge == nil {
		j.set.tooLarge = map[string]error{}
	}
	maps.Copy(j.set.tooLarge, layers)
	if err := j.planModel(o); err != nil {
		return err
	}
	var err error
	j.layers, err = j.splitLayers()
	return err
}

// beyond reports whether a weight is so large that its scales might be no half
// floats.
func beyond(w *tensor.Matrix) bool {
	for r := range w.Rows {
		for _, v := range w.Row(r) {
			if !(v <= largestHalf/2 && v >= -largestHalf/2) {
				return true
			}
		}
	}
	return false
}
