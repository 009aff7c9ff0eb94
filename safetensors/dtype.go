package safetensors

import (
	"fmt"
	"math/bits"
)

// DType is an element type, spelled as in the header.
type DType string

// The element types of the format.
const (
	Bool       DType = "BOOL" // one byte an element
	U8         DType = "U8"
	I8         DType = "I8"
	U16        DType = "U16"
	I16        DType = "I16"
	U32        DType = "U32"
	I32        DType = "I32"
	U64        DType = "U64"
	I64        DType = "I64"
	F16        DType = "F16"
	BF16       DType = "BF16"
	F32        DType = "F32"
	F64        DType = "F64"
	C64        DType = "C64" // two F32
	F8E4M3     DType = "F8_E4M3"
	F8E5M2     DType = "F8_E5M2"
	F8E8M0     DType = "F8_E8M0"
	F8E4M3FNUZ DType = "F8_E4M3FNUZ"
	F8E5M2FNUZ DType = "F8_E5M2FNUZ"
	F6E2M3     DType = "F6_E2M3"
	F6E3M2     DType = "F6_E3M2"
	F4         DType = "F4"
)

// Bits returns the size of one element in bits, 0 for an unknown type. Elements
// of 4 and 6 bits lie packed, and a tensor of them is a whole number of bytes.
func (d DType) Bits() int {
	switch d {
	case Bool, U8, I8, F8E4M3, F8E5M2, F8E8M0, F8E4M3FNUZ, F8E5M2FNUZ:
		return 8
	case U16, I16, F16, BF16:
		return 16
	case U32, I32, F32:
		return 32
	case U64, I64, F64, C64:
		return 64
	case F6E2M3, F6E3M2:
		return 6
	case F4:
		return 4
	}
	return 0
}

// TensorInfo says what a tensor is and where it lies.
type TensorInfo struct {
	Name  string
	DType DType
	Shape []int // outermost first; empty for a scalar

	// File is the base name of the file that holds the tensor. Begin and End are
	// its bytes there, counted from the start of the file's data. A plan for
	// NewWriter leaves the three at zero.
	File       string
	Begin, End int64
}

// Elements returns the number of elements, -1 where the shape is invalid.
func (t TensorInfo) Elements() int {
	n, err := elements(t.Shape)
	if err != nil {
		return -1
	}
	return n
}

// Size returns the number of bytes that type and shape ask for, -1 where they
// are invalid. For a tensor of a Reader it is End-Begin.
func (t TensorInfo) Size() int64 {
	n, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return -1
	}
	return n
}

func elements(shape []int) (int, error) {
	n := uint64(1)
	for i, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("dimension %d of shape %s is negative", i, shapeText(shape))
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > maxInt {
			return 0, fmt.Errorf("shape %s overflows: more than 2^%d elements", shapeText(shape), bits.UintSize-1)
		}
		n = lo
	}
	return int(n), nil
}

func byteSize(d DType, shape []int) (int64, error) {
	width := d.Bits()
	if width == 0 {
		return 0, fmt.Errorf("unknown dtype %s", nameText(string(d)))
	}
	n, err := elements(shape)
	if err != nil {
		return 0, err
	}
	hi, lo := bits.Mul64(uint64(n), uint64(width))
	if hi > 3 { // 2^66 bits are 2^63 bytes
		return 0, fmt.Errorf("shape %s of %s overflows: more than 2^63 bytes", shapeText(shape), d)
	}
	if lo%8 != 0 {
		return 0, fmt.Errorf("shape %s of %s is not a whole number of bytes", shapeText(shape), d)
	}
	return int64(hi<<61 | lo>>3), nil
}

const maxInt = uint64(^uint(0) >> 1)
