// Package wire converts between numbers and the little-endian bytes that
// files hold them as. It is the only place that knows the machine's byte order.
package wire

import (
	"encoding/binary"
	"io"
	"slices"
	"unsafe"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Type is a floating-point type of a file.
type Type uint8

// The types. Values of F64 are read, not written.
const (
	F32 Type = iota
	F16
	BF16
	F64
)

// Size is the number of bytes of a value.
func (t Type) Size() int {
	switch t {
	case F32:
		return 4
	case F64:
		return 8
	}
	return 2
}

// chunk is how many elements are converted at a time: the raw and the widened
// half floats together stay in the second-level cache.
const chunk = 1 << 16

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

type number interface {
	uint16 | int32 | uint32 | float32 | float64
}

// Decode widens len(dst) values of src. F64 is rounded to nearest, ties to
// even; what is too large becomes an infinity.
func Decode(dst []float32, t Type, src []byte) {
	switch t {
	case F32:
		raw := bytesOf(dst)
		copy(raw, src)
		swap(raw, 4)
	case F16:
		decode(dst, src, kernel.F16ToF32)
	case BF16:
		decode(dst, src, kernel.BF16ToF32)
	case F64:
		decode(dst, src, roundF64)
	}
}

func decode[T number](dst []float32, src []byte, convert func([]float32, []T)) {
	const few = 64 // such as the scales of a block, without memory of their own
	var small [few]T
	buf := small[:]
	if len(dst) > few {
		buf = make([]T, min(len(dst), chunk))
	}
	for len(dst) > 0 {
		buf = buf[:min(len(dst), len(buf))]
		raw := bytesOf(buf)
		copy(raw, src)
		swap(raw, int(unsafe.Sizeof(buf[0])))
		convert(dst[:len(buf)], buf)
		dst, src = dst[len(buf):], src[len(raw):]
	}
}

func roundF64(dst []float32, src []float64) {
	for i, v := range src {
		dst[i] = float32(v)
	}
}

// Read reads len(dst) values of r from byte off on and widens them, as Decode.
func Read(r io.ReaderAt, off int64, t Type, dst []float32) error {
	switch t {
	case F16:
		return read(r, off, dst, kernel.F16ToF32)
	case BF16:
		return read(r, off, dst, kernel.BF16ToF32)
	case F64:
		return read(r, off, dst, roundF64)
	}
	return ReadNumbers(r, off, dst)
}

func read[T number](r io.ReaderAt, off int64, dst []float32, convert func([]float32, []T)) error {
	buf := make([]T, min(len(dst), chunk))
	for len(dst) > 0 {
		buf = buf[:min(len(dst), chunk)]
		if err := ReadNumbers(r, off, buf); err != nil {
			return err
		}
		convert(dst[:len(buf)], buf)
		dst = dst[len(buf):]
		off += int64(len(buf)) * int64(unsafe.Sizeof(buf[0]))
	}
	return nil
}

// ReadNumbers reads len(dst) numbers of r from byte off on, half floats as
// their bits. A short read is io.ErrUnexpectedEOF.
func ReadNumbers[T number](r io.ReaderAt, off int64, dst []T) error {
	raw := bytesOf(dst)
	if err := readFull(r, raw, off); err != nil {
		return err
	}
	if len(raw) > 0 {
		swap(raw, len(raw)/len(dst))
	}
	return nil
}

// readFull fills raw, a short read being io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, raw []byte, off int64) error {
	n, err := r.ReadAt(raw, off)
	if n == len(raw) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Floats is the memory of raw as values of F32, as many as are whole in it: nil if there
// are none, and where the machine's numbers lie otherwise.
func Floats(raw []byte) []float32 {
	if len(raw) < 4 || bigEndian || uintptr(unsafe.Pointer(&raw[0]))%4 != 0 {
		return nil
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(&raw[0])), len(raw)/4)
}

// The largest values that are not rounded up to an infinity.
const (
	mostF16  = 65520 - 0x1p-8
	mostBF16 = 0x1.fefffep127
)

// ReadBytes reads len(dst) values of F32 from byte off on. see is shown the bytes
// as they are in the file.
func ReadBytes(r io.ReaderAt, off int64, dst []float32, see func([]byte)) error {
	raw := bytesOf(dst)
	if err := readFull(r, raw, off); err != nil {
		return err
	}
	see(raw)
	swap(raw, 4)
	return nil
}

// Encode rounds values to F32, F16 or BF16, to nearest, ties to even. It
// returns the place of the first finite value that the type cannot hold, or -1.
func Encode(dst []byte, t Type, src []float32) (bad int) {
	if t == F32 {
		copy(dst, bytesOf(src))
		swap(dst[:4*len(src)], 4)
		return -1
	}
	infinity, most := uint16(0x7c00), float32(mostF16)
	if t == BF16 {
		infinity, most = 0x7f80, mostBF16
	}
	var odd []uint16 // where dst is no place for halves
	if len(dst) > 0 && uintptr(unsafe.Pointer(&dst[0]))%2 != 0 {
		odd = make([]uint16, min(len(src), chunk))
	}
	for done := 0; done < len(src); {
		part := src[done:min(len(src), done+chunk)] // stays in the caches
		raw := dst[2*done : 2*(done+len(part))]
		h := odd
		if h == nil {
			h = unsafe.Slice((*uint16)(unsafe.Pointer(&raw[0])), len(part))
		}
		h = h[:len(part)]
		if t == BF16 {
			kernel.F32ToBF16(h, part)
		} else {
			kernel.F32ToF16(h, part)
		}
		if lo, hi := kernel.MinMax(part); !(lo >= -most && hi <= most) {
			for i, x := range h {
				if x&0x7fff == infinity && part[i]-part[i] == 0 {
					return done + i
				}
			}
		}
		if odd != nil {
			copy(raw, bytesOf(h))
		}
		swap(raw, 2)
		done += len(part)
	}
	return -1
}

// EncodePieces is Encode in pieces of some 100 KB, which write is given one
// after another.
func EncodePieces(t Type, src []float32, write func([]byte) error) (bad int, err error) {
	raw := make([]byte, min(len(src), chunk)*t.Size())
	for done := 0; done < len(src); {
		part := src[done:min(len(src), done+chunk)]
		if t == F32 && !bigEndian {
			if err := write(bytesOf(part)); err != nil {
				return -1, err
			}
		} else {
			if i := Encode(raw, t, part); i >= 0 {
				return done + i, nil
			}
			if err := write(raw[:len(part)*t.Size()]); err != nil {
				return -1, err
			}
		}
		done += len(part)
	}
	return -1, nil
}

// Bytes returns 32-bit integers as bytes, which share their memory where the
// machine allows it.
func Bytes[T int32 | uint32](v []T) []byte {
	raw := bytesOf(v)
	if bigEndian {
		raw = slices.Clone(raw)
		swap(raw, 4)
	}
	return raw
}

// Words reads 32-bit words.
func Words(src []byte) []uint32 {
	v := make([]uint32, len(src)/4)
	raw := bytesOf(v)
	copy(raw, src)
	swap(raw, 4)
	return v
}

// MaxHalf is the largest half float.
const MaxHalf = 65504

// Half widens a half float.
func Half(bits uint16) float32 {
	var v [1]float32
	h := [1]uint16{bits}
	kernel.F16ToF32(v[:], h[:])
	return v[0]
}

// ToHalf returns v as a half float; exact is false where that rounds.
func ToHalf(v float32) (bits uint16, exact bool) {
	var h [1]uint16
	f := [1]float32{v}
	kernel.F32ToF16(h[:], f[:])
	return h[0], Half(h[0]) == v
}

// NotFinite returns the index of the first NaN or infinity, or -1.
func NotFinite(v []float32) int {
	if kernel.AllFinite(v) {
		return -1
	}
	return slices.IndexFunc(v, func(x float32) bool { return x-x != 0 })
}

// bytesOf views the memory of s, in the machine's byte order.
func bytesOf[T number](s []T) []byte {
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
