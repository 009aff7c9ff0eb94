package layout

import (
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/quant"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// Dimensions returns the sizes of a tensor that must have n of them, each of
// a length that a layer can have.
func Dimensions(src Source, spec Spec, n int) ([]int, error) {
	if len(spec.Shape) != n {
		return nil, TensorError(src, spec.Name, "shape %v, want %d dimensions", spec.Shape, n)
	}
	for _, d := range spec.Shape {
		if d < 1 || d > math.MaxInt32/64 {
			return nil, TensorError(src, spec.Name, "shape %v, want dimensions of 1 to %d", spec.Shape, math.MaxInt32/64)
		}
	}
	return spec.Shape, nil
}

// ScaleTypeOf says in which type a weight must keep the scales of a tensor:
// F16 where half floats hold every one of them, as in most files of bfloat16;
// else BF16 for such a file.
func ScaleTypeOf(src Source, spec Spec) (quant.ScaleType, error) {
	if spec.DType == safetensors.F16 {
		return quant.F16, nil
	}
	v, err := ReadFloats(src, spec.Name, spec.Shape...)
	if err != nil {
		return 0, err
	}
	if ExactIn(safetensors.F16, v) {
		return quant.F16, nil
	}
	if spec.DType == safetensors.BF16 {
		return quant.BF16, nil
	}
	return quant.F32, nil
}

// FloatTypes are the types of tensors that hold floats.
func FloatTypes() []safetensors.DType {
	return []safetensors.DType{safetensors.F16, safetensors.BF16, safetensors.F32}
}

// Rounded is v as a tensor of type t, one of floats, holds it.
func Rounded(t safetensors.DType, v float32) float32 {
	switch t {
	case safetensors.F16:
		return tensor.RoundF16(v)
	case safetensors.BF16:
		return tensor.RoundBF16(v)
	}
	return v
}

// Source reads the tensors of an opened container by name. It is safe for
// concurrent use. The size of every tensor has been checked against its type,
// its shape and the file.
type Source interface {
	// Names lists the tensors in file order.
	Names() []string
	// Spec describes a tensor; ok is false if there is none of that name.
	Spec(name string) (spec Spec, ok bool)
	// ReadAt fills p with the tensor's bytes from offset off. Reading past
	// the tensor's end is an error.
	ReadAt(name string, p []byte, off int64) error
	// File names the file that holds the tensor, for messages.
	File(name string) string
	// Close closes the files.
	Close() error
}

// Elems returns the number of elements of the tensor.
func (s Spec) Elems() int {
	n := 1
	for _, d := range s.Shape {
		n *= d
	}
	return n
}

// Bytes returns the size of the tensor's data.
func (s Spec) Bytes() int64 {
	return safetensors.TensorInfo{DType: s.DType, Shape: s.Shape}.Size()
}

// AnyDim stands in the shapes given to want for a dimension of any length.
const AnyDim = -1

// TensorError is an error about a tensor in a file.
func TensorError(src Source, name, format string, args ...any) error {
	for i, a := range args {
		if shape, ok := a.([]int); ok {
			args[i] = shapeText(shape)
		}
	}
	return fmt.Errorf("%s: tensor %q: %w", src.File(name), name, fmt.Errorf(format, args...))
}

// Want returns the spec of a tensor that must exist with one of the types and
// the shape; AnyDim matches any length. A nil shape matches every shape.
func Want(src Source, name string, shape []int, types ...safetensors.DType) (Spec, error) {
	spec, ok := src.Spec(name)
	if !ok {
		return Spec{}, fmt.Errorf("%s: no tensor %q", src.File(name), name)
	}
	if !slices.Contains(types, spec.DType) {
		return Spec{}, TensorError(src, name, "dtype %v, want %s", spec.DType, oneOf(types))
	}
	if shape != nil {
		ok := len(shape) == len(spec.Shape)
		for i := 0; ok && i < len(shape); i++ {
			ok = shape[i] == AnyDim || shape[i] == spec.Shape[i]
		}
		if !ok {
			return Spec{}, TensorError(src, name, "shape %v, want %s", spec.Shape, shapeText(shape))
		}
	}
	return spec, nil
}

func oneOf(types []safetensors.DType) string {
	s := ""
	for i, t := range types {
		switch {
		case i == 0:
		case i == len(types)-1:
			s += " or "
		default:
			s += ", "
		}
		s += fmt.Sprint(t)
	}
	return s
}

func shapeText(shape []int) string {
	s := "["
	const most = 16
	for i, d := range shape {
		if i > 0 {
			s += " "
		}
		if i == most {
			s += fmt.Sprintf("… %d dimensions", len(shape))
			break
		}
		if d == AnyDim {
			s += "any"
		} else {
			s += fmt.Sprint(d)
		}
	}
	return s + "]"
}

// ReadBytes reads the whole of a tensor that want describes.
func ReadBytes(src Source, name string, shape []int, types ...safetensors.DType) (Spec, []byte, error) {
	spec, err := Want(src, name, shape, types...)
	if err != nil {
		return Spec{}, nil, err
	}
	data := make([]byte, spec.Bytes())
	if err := src.ReadAt(name, data, 0); err != nil {
		return Spec{}, nil, err
	}
	return spec, data, nil
}

// ReadInt32s reads an I32 tensor.
func ReadInt32s(src Source, name string, shape ...int) ([]int32, error) {
	return readI32[int32](src, name, shape)
}

// ReadWords reads an I32 tensor of packed codes as the words they are.
func ReadWords(src Source, name string, shape ...int) ([]uint32, error) {
	return readI32[uint32](src, name, shape)
}

func readI32[T int32 | uint32](src Source, name string, shape []int) ([]T, error) {
	spec, err := Want(src, name, shape, safetensors.I32)
	if err != nil {
		return nil, err
	}
	v := make([]T, spec.Elems())
	if err := wire.ReadNumbers(ReaderOf(src, spec), 0, v); err != nil {
		return nil, err
	}
	return v, nil
}

// ReadFloats reads an F32, F16 or BF16 tensor, widened.
func ReadFloats(src Source, name string, shape ...int) ([]float32, error) {
	spec, err := Want(src, name, shape, FloatTypes()...)
	if err != nil {
		return nil, err
	}
	v := make([]float32, spec.Elems())
	if err := ReadFloatsAt(src, spec, 0, v); err != nil {
		return nil, err
	}
	return v, nil
}

// ReadFloatsAt reads len(dst) elements of an F32, F16 or BF16 tensor from
// element first on, widened.
func ReadFloatsAt(src Source, spec Spec, first int, dst []float32) error {
	t := wireType(spec.DType)
	return wire.Read(ReaderOf(src, spec), int64(first)*int64(t.Size()), t, dst)
}

// ReadHalvesAt reads len(dst) elements of an F16 or BF16 tensor from element
// first on, as their bits.
func ReadHalvesAt(src Source, spec Spec, first int, dst []uint16) error {
	return wire.ReadNumbers(ReaderOf(src, spec), 2*int64(first), dst)
}

func wireType(t safetensors.DType) wire.Type {
	switch t {
	case safetensors.F16:
		return wire.F16
	case safetensors.BF16:
		return wire.BF16
	}
	return wire.F32
}

// ReaderOf reads the bytes of a tensor that src has.
func ReaderOf(src Source, spec Spec) io.ReaderAt {
	return sourceReader{src, spec.Name, spec.Bytes()}
}

type sourceReader struct {
	src  Source
	name string
	size int64
}

func (r sourceReader) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), r.size-off)
	if n <= 0 {
		return 0, io.EOF
	}
	if err := r.src.ReadAt(r.name, p[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}
