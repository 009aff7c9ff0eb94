package ggufmodel

import (
	"maps"
	"slices"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
	"github.com/golowbit/lowbit/safetensors"
)

// unstacked shows layers that lie in tensors with several as tensors of their
// own: GGUF has the experts of a block in one tensor too, but gate and up apart.
type unstacked struct {
	layout.Origin
	weights, biases map[string]program.LinearInfo // by name
	stored          map[string]bool
}

// unstack looks for such layers in a model that has been fitted to src.
func unstack(m *decoder.Model, src layout.Origin) layout.Origin {
	u := unstacked{src, map[string]program.LinearInfo{}, map[string]program.LinearInfo{}, map[string]bool{}}
	for _, l := range m.Linears() {
		s := l.Slice
		if s == nil || s.Weight == l.WeightName() {
			continue
		}
		if _, own := src.Shape(l.WeightName()); own {
			continue
		}
		u.weights[l.WeightName()], u.stored[s.Weight] = l, true
		if _, own := src.Shape(l.BiasName()); l.Bias && !own {
			u.biases[l.BiasName()], u.stored[s.Bias] = l, true
		}
	}
	if len(u.stored) == 0 {
		return src
	}
	return u
}

// Dense describes the layers in place of what they lie in.
func (u unstacked) Dense() []layout.Spec {
	var all []layout.Spec
	types := map[string]safetensors.DType{}
	for _, s := range u.Origin.Dense() {
		if types[s.Name] = s.DType; !u.stored[s.Name] {
			all = append(all, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(u.weights)) {
		l := u.weights[name]
		all = append(all, layout.Spec{Name: name, DType: types[l.Slice.Weight], Shape: []int{l.Out, l.In}})
	}
	for _, name := range slices.Sorted(maps.Keys(u.biases)) {
		l := u.biases[name]
		all = append(all, layout.Spec{Name: name, DType: types[l.Slice.Bias], Shape: []int{l.Out}})
	}
	return all
}

func (u unstacked) Shape(name string) ([]int, bool) {
	if l, ok := u.weights[name]; ok {
		return []int{l.Out, l.In}, true
	}
	if l, ok := u.biases[name]; ok {
		return []int{l.Out}, true
	}
	return u.Origin.Shape(name)
}

// Vector reads a vector, or the bias of a layer out of one with several.
func (u unstacked) Vector(name string) ([]float32, error) {
	l, ok := u.biases[name]
	if !ok {
		return u.Origin.Vector(name)
	}
	s := l.Slice
	read := func() ([]float32, error) { return u.Origin.Vector(s.Bias) }
	if s.Experts > 0 {
		read = func() ([]float32, error) { return u.Rows(s.Bias, s.Expert, s.Expert+1, nil) }
	}
	all, err := read()
	if err != nil {
		return nil, err
	}
	v := make([]float32, l.Out)
	for i := range v {
		v[i] = all[s.Output0+i*s.Step]
	}
	return v, nil
}

// Rows reads rows of a matrix, or of a layer out of a tensor with several.
func (u unstacked) Rows(name string, r0, r1 int, dst []float32) ([]float32, error) {
	l, ok := u.weights[name]
	if !ok {
		return u.Origin.Rows(name, r0, r1, dst)
	}
	s := l.Slice
	first, last := s.Expert, s.Expert+1
	if s.Experts == 0 {
		first, last = 0, s.WeightShape(l.In)[0]
	}
	all, err := u.Origin.Rows(s.Weight, first, last, nil)
	if err != nil {
		return nil, err
	}
	dst = slices.Grow(dst[:0], (r1-r0)*l.In)[:(r1-r0)*l.In]
	for i := range r1 - r0 {
		row, from := dst[i*l.In:][:l.In], s.Output0+(r0+i)*s.Step
		if !s.Transposed {
			copy(row, all[from*l.In:])
			continue
		}
		for j := range row {
			row[j] = all[j*s.Outputs+from]
		}
	}
	return dst, nil
}
