package safetensors

import (
	"fmt"

	"github.com/golowbit/lowbit/internal/wire"
)

// wireType is the type under which floats are converted; ok is false if the
// values of d are not read as floats.
func (d DType) wireType() (t wire.Type, ok bool) {
	switch d {
	case F32:
		return wire.F32, true
	case F16:
		return wire.F16, true
	case BF16:
		return wire.BF16, true
	case F64:
		return wire.F64, true
	}
	return 0, false
}

// DecodeFloat32 widens the little-endian values of src, F32, F16, BF16 or F64,
// to dst, which is as long as there are values. F64 is rounded to nearest, ties
// to even; what is too large becomes an infinity. Other types give an error
// that wraps ErrDType.
func DecodeFloat32(dst []float32, d DType, src []byte) error {
	t, ok := d.wireType()
	if !ok {
		return fmt.Errorf("%w: dtype %s, want F32, F16, BF16 or F64", ErrDType, d)
	}
	if len(src) != len(dst)*t.Size() {
		panic("safetensors: as many bytes as the values take")
	}
	wire.Decode(dst, t, src)
	return nil
}

// EncodeFloat32 rounds src to F32, F16 or BF16, to nearest, ties to even, as
// little-endian bytes. A finite value too large for the type and other types
// give an error that wraps ErrDType, values that the type cannot hold ErrRange.
func EncodeFloat32(dst []byte, d DType, src []float32) error {
	t, ok := d.wireType()
	if !ok || d == F64 {
		return fmt.Errorf("%w: dtype %s, want F32, F16 or BF16", ErrDType, d)
	}
	if len(dst) != len(src)*t.Size() {
		panic("safetensors: as many bytes as the values take")
	}
	if i := wire.Encode(dst, t, src); i >= 0 {
		return fmt.Errorf("%w: value %g at %d is too large for %s", ErrRange, src[i], i, d)
	}
	return nil
}

// readFloats reads n elements of t from element first on.
func (f *File) readFloats(t *TensorInfo, first, n int, dst []float32) ([]float32, error) {
	w, ok := t.DType.wireType()
	if !ok {
		return nil, tensorErrorf(ErrDType, f.path, t.Name, "dtype %s, want F32, F16, BF16 or F64", t.DType)
	}
	dst = grow(dst, n)
	off := f.head.dataStart + t.Begin + int64(first)*int64(w.Size())
	if err := wire.Read(f.r, off, w, dst); err != nil {
		return nil, f.readError(t.Name, err)
	}
	return dst, nil
}
