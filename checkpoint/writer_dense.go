package checkpoint

import (
	"fmt"
	"maps"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/safetensors"
)

// PutDense changes a vector that is copied from the source: a norm's gain or
// a bias. It is stored in the type that the source's tensor has, which must
// hold every value exactly. Like a finished layer it is kept across a resume;
// to put the same values again is allowed, to put others is an error.
func (w *Writer) PutDense(name string, values []float32) error {
	if err := w.checkDense(name, values); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errClosed
	}
	if old, ok := w.changed[name]; ok {
		if !slices.Equal(old, values) {
			return fmt.Errorf("tensor %q has been changed already, to other values", name)
		}
		return nil
	}
	if !w.o.Direct {
		if err := w.keepDense(name, values); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
	}
	w.changed[name] = slices.Clone(values)
	return nil
}

// checkDense reports whether a tensor can be changed to values.
func (w *Writer) checkDense(name string, values []float32) error {
	src := w.o.Source
	spec, ok := src.src.Spec(name)
	if _, packed := src.part[name]; !ok || packed {
		return fmt.Errorf("%s: no dense tensor %q to change", src.Path(), name)
	}
	if !slices.Equal(spec.Shape, []int{len(values)}) {
		return fmt.Errorf("%s: tensor %q: shape %v, want a vector of %d", src.Path(), name, spec.Shape, len(values))
	}
	switch spec.DType {
	case safetensors.F32, safetensors.F16, safetensors.BF16:
	default:
		return fmt.Errorf("%s: tensor %q: dtype %v, want F32, F16 or BF16", src.Path(), name, spec.DType)
	}
	if i := wire.NotFinite(values); i >= 0 {
		return fmt.Errorf("tensor %q: element %d is %g", name, i, values[i])
	}
	_, err := layout.FloatTensor(name, spec.DType, values, len(values))
	return err
}

func (w *Writer) keepDense(name string, values []float32) error {
	spec, _ := w.o.Source.src.Spec(name)
	t, err := layout.FloatTensor(name, spec.DType, values, len(values))
	if err != nil {
		return err
	}
	if err := w.hashInputs(); err != nil {
		return err
	}
	return w.partial.PutVector(t)
}

// origin is the source as it is with the changed tensors.
func (w *Writer) origin() overlay {
	w.mu.Lock()
	defer w.mu.Unlock()
	return overlay{w.o.Source, maps.Clone(w.changed)}
}
