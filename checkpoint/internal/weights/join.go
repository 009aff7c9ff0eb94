package weights

import (
	"errors"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/safetensors"
)

// Whole, as the dimension of a join, says that every part has all of the
// tensor.
const Whole = -1

// Join puts together tensors that were cut into as many parts as there are
// files, as tensor-parallel programs save them: every part has every name. dim
// says along which dimension a tensor was cut, 0 or 1, or Whole. Closing it
// closes the parts.
func Join(parts []Tensors, dim func(name string) int) (Tensors, error) {
	if len(parts) == 1 {
		return parts[0], nil
	}
	j := &joined{parts: parts, dims: map[string]int{}}
	for _, name := range parts[0].Names() {
		first, _ := parts[0].Info(name)
		d := dim(name)
		if d != Whole && d >= len(first.Shape) {
			return nil, fmt.Errorf("%s: tensor %q: shape %v, want a matrix", parts[0].Path(name), name, first.Shape)
		}
		for _, p := range parts[1:] {
			t, ok := p.Info(name)
			if !ok {
				return nil, fmt.Errorf("%s: no tensor %q, which %s has: a part of another model?", p.Path(""), name, parts[0].Path(name))
			}
			if t.DType != first.DType || !slices.Equal(t.Shape, first.Shape) {
				return nil, fmt.Errorf("%s: tensor %q: %s %v, in %s it is %s %v", p.Path(name), name, t.DType, t.Shape, parts[0].Path(name), first.DType, first.Shape)
			}
		}
		j.dims[name] = d
		if t, _ := j.Info(name); t.Size() < 0 {
			return nil, fmt.Errorf("%s: tensor %q: shape %v overflows", parts[0].Path(name), name, t.Shape)
		}
	}
	return j, nil
}

type joined struct {
	parts []Tensors
	dims  map[string]int
}

func (j *joined) Names() []string         { return j.parts[0].Names() }
func (j *joined) Path(name string) string { return j.parts[0].Path(name) }

func (j *joined) Close() error {
	var errs []error
	for _, p := range j.parts {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

func (j *joined) Info(name string) (safetensors.TensorInfo, bool) {
	t, ok := j.parts[0].Info(name)
	if d := j.dims[name]; ok && d != Whole {
		t.Shape = slices.Clone(t.Shape)
		t.Shape[d] *= len(j.parts)
	}
	return t, ok
}

func (j *joined) ReadAt(name string, p []byte, off int64) error {
	one, ok := j.parts[0].Info(name)
	d := j.dims[name]
	if !ok || d == Whole {
		return j.parts[0].ReadAt(name, p, off)
	}
	all, _ := j.Info(name)
	if err := CheckRange(j, name, all.Size(), p, off); err != nil {
		return err
	}
	if len(p) == 0 {
		return nil
	}
	// The tensor is a sequence of runs, taken from the parts in turn.
	run := one.Size()
	if d == 1 {
		run /= int64(one.Shape[0])
	}
	for len(p) > 0 {
		i, at := off/run, off%run
		n := min(int64(len(p)), run-at)
		part, round := i%int64(len(j.parts)), i/int64(len(j.parts))
		if err := j.parts[part].ReadAt(name, p[:n], round*run+at); err != nil {
			return err
		}
		p = p[n:]
		off += n
	}
	return nil
}
