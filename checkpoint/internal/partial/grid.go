package partial

import (
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
)

// Format lowbit holds uniform grids. A weight on another is kept as one of
// float32 scales whose zero-points mean nothing, with its shifts in a tensor
// beside it and the grid's text in the metadata: whoever reads it knows the grid
// itself.

const (
	gridKey      = "grid"
	shiftsKey    = "shifts_crc32c"
	shiftsSuffix = ".shifts"
)

// Uniform is the scheme under which finished layers of a scheme are kept.
func Uniform(s quant.Scheme) quant.Scheme {
	if s.Grid != nil {
		s.Grid, s.Symmetric, s.ScaleType, s.ClipInput = nil, true, quant.F32, false
	}
	return s
}

// Size is how many bytes layers take that are kept.
func Size(layers []layout.Layer) (int64, error) {
	var n int64
	for _, l := range layers {
		s := l.Scheme
		if l.Scheme = Uniform(s); s.Grid != nil {
			lines, length := s.Lines(l.Out, l.In)
			n += 4 * int64(lines) * int64(s.Groups(length)) // shifts
		}
		specs, err := native.Format{}.Plan(l)
		if err != nil {
			return 0, err
		}
		for _, t := range specs {
			n += t.Bytes()
		}
	}
	return n, nil
}

// uniform gives what a weight is kept as, with further tensors and metadata.
func uniform(l layout.Layer, q *quant.Weight) (layout.Layer, *quant.Weight, []layout.Tensor, map[string]string, error) {
	if q.Scheme.Grid == nil {
		return l, q, nil, map[string]string{}, nil
	}
	text, err := q.Scheme.Grid.MarshalText()
	if err == nil {
		err = q.Validate()
	}
	if err != nil {
		return l, q, nil, nil, err
	}
	plain := *q
	plain.Scheme, plain.Shifts = Uniform(q.Scheme), nil
	plain.Zeros = slices.Repeat([]uint8{layout.SymmetricZero(q.Scheme.Bits)}, len(q.Scales))
	l.Scheme = plain.Scheme
	shifts, err := layout.FloatTensor(l.Name+shiftsSuffix, safetensors.F32, q.Shifts, len(q.Shifts))
	return l, &plain, []layout.Tensor{shifts}, map[string]string{gridKey: string(text), shiftsKey: checksum(shifts.Data)}, err
}

// gridded gives a layer that was kept its scheme back.
func gridded(l layout.Layer, planned quant.Scheme, r *safetensors.Folder) (layout.Layer, error) {
	text, ok := r.Metadata()[gridKey]
	if !ok {
		return l, nil
	}
	if planned.Grid == nil {
		return l, fmt.Errorf("layer %q is on a grid %q that is not among the options", l.Name, text)
	}
	if want, err := planned.Grid.MarshalText(); err != nil || string(want) != text {
		return l, fmt.Errorf("layer %q is on a grid %q, want %q", l.Name, text, want)
	}
	l.Scheme.Grid, l.Scheme.Symmetric, l.Scheme.ScaleType, l.Scheme.ClipInput = planned.Grid, false, 0, planned.ClipInput
	return l, nil
}

// regrid puts a weight that was kept back on the grid of its layer.
func regrid(q *quant.Weight, l layout.Layer, r *safetensors.Folder) error {
	if l.Scheme.Grid == nil {
		return nil
	}
	data, err := r.ReadBytes(l.Name+shiftsSuffix, nil)
	if err != nil {
		return err
	}
	if got, want := checksum(data), r.Metadata()[shiftsKey]; got != want {
		return fmt.Errorf("layer %q: checksum of the shifts %s, want %s: the file is damaged", l.Name, got, want)
	}
	if len(data) != 4*len(q.Scales) {
		return fmt.Errorf("layer %q: %d bytes of shifts, want %d", l.Name, len(data), 4*len(q.Scales))
	}
	q.Scheme, q.Zeros, q.Shifts = l.Scheme, nil, make([]float32, len(q.Scales))
	wire.Decode(q.Shifts, wire.F32, data)
	return q.Validate()
}
