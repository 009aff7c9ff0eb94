package safetensors

import (
	"encoding/binary"
	"math"
	"slices"
	"unsafe"

	"github.com/golowbit/lowbit/internal/kernel"
)

// chunk is how many elements are converted at a time: the raw and the widened
// half floats together stay in the second-level cache.
const chunk = 1 << 16

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// readFloats reads n elements of t from element first on.
func (f *File) readFloats(t *TensorInfo, first, n int, dst []float32) ([]float32, error) {
	switch t.DType {
	case F32, F16, BF16, F64:
	default:
		return nil, tensorErrorf(ErrDType, f.path, t.Name, "dtype %s, want F32, F16, BF16 or F64", t.DType)
	}
	dst = grow(dst, n)
	off := f.head.dataStart + t.Begin + int64(first)*int64(t.DType.Bits()/8)
	var err error
	switch t.DType {
	case F32:
		raw := bytesOf(dst)
		if err = readFull(f.r, raw, off); err == nil {
			swap(raw, 4)
		}
	case F16:
		err = readChunks(f, dst, off, kernel.F16ToF32)
	case BF16:
		err = readChunks(f, dst, off, kernel.BF16ToF32)
	case F64:
		err = readChunks(f, dst, off, func(dst []float32, src []float64) {
			for i, v := range src {
				dst[i] = float32(v)
			}
		})
	}
	if err != nil {
		return nil, f.readError(t.Name, err)
	}
	return dst, nil
}

// readChunks reads len(dst) elements of type T from off on and converts them.
func readChunks[T uint16 | float64](f *File, dst []float32, off int64, convert func([]float32, []T)) error {
	buf := make([]T, min(len(dst), chunk))
	for len(dst) > 0 {
		buf = buf[:min(len(dst), chunk)]
		raw := bytesOf(buf)
		if err := readFull(f.r, raw, off); err != nil {
			return err
		}
		swap(raw, int(unsafe.Sizeof(buf[0])))
		convert(dst[:len(buf)], buf)
		dst = dst[len(buf):]
		off += int64(len(raw))
	}
	return nil
}

// writeChunks converts src to dtype d and hands the bytes on piece by piece. It
// returns the place of the first value that d cannot hold, or -1.
func writeChunks(d DType, src []float32, write func([]byte) error) (bad int, err error) {
	half := make([]uint16, min(len(src), chunk))
	var wide []float32
	if d == F32 && bigEndian {
		wide = make([]float32, min(len(src), chunk))
	}
	for done := 0; done < len(src); {
		part := src[done:min(len(src), done+chunk)]
		var raw []byte
		switch d {
		case F16:
			kernel.F32ToF16(half[:len(part)], part)
			if i := overflowed(half[:len(part)], part); i >= 0 {
				return done + i, nil
			}
			raw = bytesOf(half[:len(part)])
			swap(raw, 2)
		case BF16:
			kernel.F32ToBF16(half[:len(part)], part)
			raw = bytesOf(half[:len(part)])
			swap(raw, 2)
		default:
			raw = bytesOf(part)
			if bigEndian { // src is the caller's
				raw = bytesOf(wide[:copy(wide, part)])
				swap(raw, 4)
			}
		}
		if err := write(raw); err != nil {
			return -1, err
		}
		done += len(part)
	}
	return -1, nil
}

// overflowed finds a finite value that became an infinite half float.
func overflowed(half []uint16, src []float32) int {
	for i, h := range half {
		if h&0x7fff == 0x7c00 && !math.IsInf(float64(src[i]), 0) {
			return i
		}
	}
	return -1
}

// bytesOf views the memory of s, in the machine's byte order.
func bytesOf[T uint16 | float32 | float64](s []T) []byte {
	if len(s) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0])))
}

// swap turns little-endian elements of width bytes into the machine's order, and back.
func swap(p []byte, width int) {
	if !bigEndian {
		return
	}
	for ; len(p) > 0; p = p[width:] {
		slices.Reverse(p[:width])
	}
}
