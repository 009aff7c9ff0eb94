package checkpoint

import (
	"fmt"
	"io"
	"slices"

	"github.com/golowbit/lowbit/internal/wire"
	"github.com/golowbit/lowbit/safetensors"
)

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

// anyDim stands in the shapes given to want for a dimension of any length.
const anyDim = -1

// tensorError is an error about a tensor in a file.
func tensorError(src Source, name, format string, args ...any) error {
	return fmt.Errorf("%s: tensor %q: %w", src.File(name), name, fmt.Errorf(format, args...))
}

// want returns the spec of a tensor that must exist with one of the types and
// the shape; anyDim matches any length. A nil shape matches every shape.
func want(src Source, name string, shape []int, types ...safetensors.DType) (Spec, error) {
	spec, ok := src.Spec(name)
	if !ok {
		return Spec{}, fmt.Errorf("%s: no tensor %q", src.File(name), name)
	}
	if !slices.Contains(types, spec.DType) {
		return Spec{}, tensorError(src, name, "dtype %v, want %s", spec.DType, oneOf(types))
	}
	if shape != nil {
		ok := len(shape) == len(spec.Shape)
		for i := 0; ok && i < len(shape); i++ {
			ok = shape[i] == anyDim || shape[i] == spec.Shape[i]
		}
		if !ok {
			return Spec{}, tensorError(src, name, "shape %v, want %s", spec.Shape, shapeText(shape))
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
	for i, d := range shape {
		if i > 0 {
			s += " "
		}
		if d == anyDim {
			s += "any"
		} else {
			s += fmt.Sprint(d)
		}
	}
	return s + "]"
}

// readBytes reads the whole of a tensor that want describes.
func readBytes(src Source, name string, shape []int, types ...safetensors.DType) (Spec, []byte, error) {
	spec, err := want(src, name, shape, types...)
	if err != nil {
		return Spec{}, nil, err
	}
	data := make([]byte, spec.Bytes())
	if err := src.ReadAt(name, data, 0); err != nil {
		return Spec{}, nil, err
	}
	return spec, data, nil
}

// readInt32s reads an I32 tensor.
func readInt32s(src Source, name string, shape ...int) ([]int32, error) {
	return readI32[int32](src, name, shape)
}

// readWords reads an I32 tensor of packed codes as the words they are.
func readWords(src Source, name string, shape ...int) ([]uint32, error) {
	return readI32[uint32](src, name, shape)
}

func readI32[T int32 | uint32](src Source, name string, shape []int) ([]T, error) {
	spec, err := want(src, name, shape, safetensors.I32)
	if err != nil {
		return nil, err
	}
	v := make([]T, spec.Elems())
	if err := wire.ReadNumbers(tensorReader(src, spec), 0, v); err != nil {
		return nil, err
	}
	return v, nil
}

// readFloats reads an F32, F16 or BF16 tensor, widened.
func readFloats(src Source, name string, shape ...int) ([]float32, error) {
	spec, err := want(src, name, shape, floatTypes()...)
	if err != nil {
		return nil, err
	}
	v := make([]float32, spec.Elems())
	if err := readFloatsAt(src, spec, 0, v); err != nil {
		return nil, err
	}
	return v, nil
}

// readFloatsAt reads len(dst) elements of an F32, F16 or BF16 tensor from
// element first on, widened.
func readFloatsAt(src Source, spec Spec, first int, dst []float32) error {
	t := wireType(spec.DType)
	return wire.Read(tensorReader(src, spec), int64(first)*int64(t.Size()), t, dst)
}

// readHalvesAt reads len(dst) elements of an F16 or BF16 tensor from element
// first on, as their bits.
func readHalvesAt(src Source, spec Spec, first int, dst []uint16) error {
	return wire.ReadNumbers(tensorReader(src, spec), 2*int64(first), dst)
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

// tensorReader reads the bytes of a tensor that src has.
func tensorReader(src Source, spec Spec) io.ReaderAt {
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

// floatTensor stores values that the type must hold exactly.
func floatTensor(name string, t safetensors.DType, values []float32, shape ...int) (Tensor, error) {
	tn := Tensor{Spec: Spec{Name: name, DType: t, Shape: shape}}
	tn.Data = make([]byte, tn.Bytes())
	if err := safetensors.EncodeFloat32(tn.Data, t, values); err != nil {
		return Tensor{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	if t != safetensors.F32 {
		back := make([]float32, len(values))
		if err := safetensors.DecodeFloat32(back, t, tn.Data); err != nil {
			return Tensor{}, err
		}
		for i, v := range back {
			if v != values[i] {
				return Tensor{}, fmt.Errorf("tensor %q: value %g at %d is not exact in %v: %w", name, values[i], i, t,
					Unsupported("round it to %v first, or store scales as f32", t))
			}
		}
	}
	return tn, nil
}

// int32Tensor stores 32-bit integers or words; it shares their memory.
func int32Tensor[T int32 | uint32](name string, values []T, shape ...int) Tensor {
	return Tensor{Spec: Spec{Name: name, DType: safetensors.I32, Shape: shape}, Data: wire.Bytes(values)}
}

// transposed returns the [cols, rows] transpose of a [rows, cols] matrix.
func transposed[T any](src []T, rows, cols int) []T {
	dst := make([]T, len(src))
	const tile = 32
	for i0 := 0; i0 < rows; i0 += tile {
		for j0 := 0; j0 < cols; j0 += tile {
			for i := i0; i < min(i0+tile, rows); i++ {
				for j := j0; j < min(j0+tile, cols); j++ {
					dst[j*rows+i] = src[i*cols+j]
				}
			}
		}
	}
	return dst
}
