package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
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
	raw := nativeBytes(v)
	if err := src.ReadAt(name, raw, 0); err != nil {
		return nil, err
	}
	if bigEndian {
		for i := range v {
			v[i] = T(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	}
	return v, nil
}

// wordsOf decodes little-endian words.
func wordsOf(data []byte) []uint32 {
	v := make([]uint32, len(data)/4)
	for i := range v {
		v[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	return v
}

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// nativeBytes views 32-bit integers as bytes in the machine's order.
func nativeBytes[T int32 | uint32](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v))
}

// littleBytes returns 32-bit integers as little-endian bytes, which share
// their memory where the machine allows it.
func littleBytes[T int32 | uint32](v []T) []byte {
	if !bigEndian {
		return nativeBytes(v)
	}
	data := make([]byte, 4*len(v))
	for i, x := range v {
		binary.LittleEndian.PutUint32(data[4*i:], uint32(x))
	}
	return data
}

// readFloats reads an F32, F16 or BF16 tensor, widened.
func readFloats(src Source, name string, shape ...int) ([]float32, error) {
	types := []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16}
	if r, ok := src.(floatReader); ok {
		if _, err := want(src, name, shape, types...); err != nil {
			return nil, err
		}
		return r.ReadFloat32(name)
	}
	spec, data, err := readBytes(src, name, shape, types...)
	if err != nil {
		return nil, err
	}
	v := make([]float32, spec.Elems())
	widen(v, spec.DType, data)
	return v, nil
}

// widen converts little-endian F32, F16 or BF16 to float32.
func widen(dst []float32, t safetensors.DType, data []byte) {
	if t == safetensors.F32 {
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		return
	}
	const chunk = 4096
	var half [chunk]uint16
	for len(dst) > 0 {
		n := min(chunk, len(dst))
		for i := range n {
			half[i] = binary.LittleEndian.Uint16(data[2*i:])
		}
		if t == safetensors.F16 {
			tensor.F16ToF32(dst[:n], half[:n])
		} else {
			tensor.BF16ToF32(dst[:n], half[:n])
		}
		dst, data = dst[n:], data[2*n:]
	}
}

// narrow converts float32 to little-endian F32, F16 or BF16, rounding to
// nearest even. It fails where a finite value is too large for the type.
func narrow(data []byte, t safetensors.DType, src []float32) error {
	if t == safetensors.F32 {
		for i, v := range src {
			binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
		}
		return nil
	}
	const chunk = 4096
	infinity := uint16(0x7c00)
	if t == safetensors.BF16 {
		infinity = 0x7f80
	}
	var half [chunk]uint16
	for len(src) > 0 {
		n := min(chunk, len(src))
		if t == safetensors.F16 {
			tensor.F32ToF16(half[:n], src[:n])
		} else {
			tensor.F32ToBF16(half[:n], src[:n])
		}
		for i, h := range half[:n] {
			if h&0x7fff == infinity && src[i]-src[i] == 0 {
				return fmt.Errorf("value %g is too large for %v", src[i], t)
			}
			binary.LittleEndian.PutUint16(data[2*i:], h)
		}
		src, data = src[n:], data[2*n:]
	}
	return nil
}

// floatTensor stores values that the type must hold exactly.
func floatTensor(name string, t safetensors.DType, values []float32, shape ...int) (Tensor, error) {
	tn := Tensor{Spec: Spec{Name: name, DType: t, Shape: shape}}
	tn.Data = make([]byte, tn.Bytes())
	if err := narrow(tn.Data, t, values); err != nil {
		return Tensor{}, fmt.Errorf("tensor %q: %w", name, err)
	}
	if t != safetensors.F32 {
		back := make([]float32, len(values))
		widen(back, t, tn.Data)
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
	return Tensor{Spec: Spec{Name: name, DType: safetensors.I32, Shape: shape}, Data: littleBytes(values)}
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
