package weights

import (
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// Source is Tensors as a layout.Source.
type Source struct{ Tensors }

// Spec implements layout.Source.
func (s Source) Spec(name string) (layout.Spec, bool) {
	info, ok := s.Info(name)
	return layout.Spec{Name: info.Name, DType: info.DType, Shape: info.Shape}, ok
}

// File implements layout.Source.
func (s Source) File(name string) string { return s.Path(name) }

// Of is a layout.Source as Tensors.
func Of(s layout.Source) Tensors { return tensors{s} }

type tensors struct{ layout.Source }

func (t tensors) Info(name string) (safetensors.TensorInfo, bool) {
	s, ok := t.Spec(name)
	return safetensors.TensorInfo{Name: s.Name, DType: s.DType, Shape: s.Shape}, ok
}

func (t tensors) Path(name string) string { return t.File(name) }

// Infos are specs as a safetensors writer wants them.
func Infos(specs []layout.Spec) []safetensors.TensorInfo {
	infos := make([]safetensors.TensorInfo, len(specs))
	for i, s := range specs {
		infos[i] = safetensors.TensorInfo{Name: s.Name, DType: s.DType, Shape: s.Shape}
	}
	return infos
}
