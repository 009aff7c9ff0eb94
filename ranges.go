package lowbit

import (
	"context"
	"errors"
	"maps"

	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/phases"
	"github.com/golowbit/lowbit/internal/ranges"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// checkRanges looks for layers that are too large for their grids, and for NaN
// and infinities, before the work of hours.
func (j *job) checkRanges(ctx context.Context) (map[string]error, error) {
	defer phases.Of(ctx).Enter(phases.Checks)()
	var layers []ranges.Layer
	_, written := j.set.format.(dense.Format)
	for _, p := range j.plan.Layers {
		if p.Dense {
			continue
		}
		l := ranges.Layer{Name: p.Name, Tensor: p.Name + layout.WeightSuffix, Half: written && p.DType == safetensors.F16}
		for _, a := range p.Arms {
			l.Schemes = append(l.Schemes, p.With(a).Scheme)
		}
		layers = append(layers, l)
	}
	return ranges.Check(ctx, j.layers, layers, j.set.workers)
}

// outOfRange wraps an error about a layer if it is one of range.
func outOfRange(layer string, err error) error {
	if errors.Is(err, quant.ErrScaleRange) || errors.Is(err, safetensors.ErrRange) {
		return &ranges.Error{Layer: layer, Err: err}
	}
	return err
}

// leaveDense plans anew, with layers dense that are too large for their grids.
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
	return j.splitLayers()
}
