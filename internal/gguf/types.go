package gguf

import (
	"fmt"
	"math"
	"math/bits"
)

// Type is the type of a tensor's elements, numbered as ggml does.
type Type uint32

// The types whose values this package encodes and decodes.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q4_1 Type = 3
	Q5_0 Type = 6
	Q5_1 Type = 7
	Q8_0 Type = 8
	BF16 Type = 30
)

// typeInfo gives the elements and bytes of a block.
type typeInfo struct {
	name         string
	block, bytes int
}

// types holds every type of ggml's that a file may have (enum ggml_type and
// ggml-common.h), so that files with other tensors open too.
var types = map[Type]typeInfo{
	F32:     {"F32", 1, 4},
	F16:     {"F16", 1, 2},
	Q4_0:    {"Q4_0", 32, 18},
	Q4_1:    {"Q4_1", 32, 20},
	Q5_0:    {"Q5_0", 32, 22},
	Q5_1:    {"Q5_1", 32, 24},
	Q8_0:    {"Q8_0", 32, 34},
	9:       {"Q8_1", 32, 36},
	10:      {"Q2_K", 256, 84},
	11:      {"Q3_K", 256, 110},
	12:      {"Q4_K", 256, 144},
	13:      {"Q5_K", 256, 176},
	14:      {"Q6_K", 256, 210},
	15:      {"Q8_K", 256, 292},
	IQ2_XXS: {"IQ2_XXS", 256, 66},
	IQ2_XS:  {"IQ2_XS", 256, 74},
	IQ3_XXS: {"IQ3_XXS", 256, 98},
	IQ1_S:   {"IQ1_S", 256, 50},
	20:      {"IQ4_NL", 32, 18},
	IQ3_S:   {"IQ3_S", 256, 110},
	IQ2_S:   {"IQ2_S", 256, 82},
	23:      {"IQ4_XS", 256, 136},
	24:      {"I8", 1, 1},
	25:      {"I16", 1, 2},
	26:      {"I32", 1, 4},
	27:      {"I64", 1, 8},
	28:      {"F64", 1, 8},
	IQ1_M:   {"IQ1_M", 256, 56},
	BF16:    {"BF16", 1, 2},
	TQ1_0:   {"TQ1_0", 256, 54},
	TQ2_0:   {"TQ2_0", 256, 66},
	MXFP4:   {"MXFP4", 32, 17},
	NVFP4:   {"NVFP4", 64, 36},
	Q1_0:    {"Q1_0", 128, 18},
	Q2_0:    {"Q2_0", 64, 18},
}

// String is the name ggml gives the type.
func (t Type) String() string {
	if i, ok := types[t]; ok {
		return i.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Known reports whether the size of the type is known.
func (t Type) Known() bool { _, ok := types[t]; return ok }

// Block is the number of elements in a block, 1 for plain types, 0 for
// unknown ones.
func (t Type) Block() int { return types[t].block }

// BlockBytes is the number of bytes of a block.
func (t Type) BlockBytes() int { return types[t].bytes }

// RowBytes is the number of bytes of n elements; n is a multiple of Block.
func (t Type) RowBytes(n int) int {
	i := types[t]
	return n / i.block * i.bytes
}

// MaxName is the longest tensor name: ggml has room for 64 bytes with a
// closing zero.
const MaxName = 63

// maxDims is the number of dimensions ggml has.
const maxDims = 4

// Tensor describes a tensor.
type Tensor struct {
	Name string
	Type Type
	// Dims has the contiguous dimension first: [in, out] for a linear. It is
	// empty for a scalar.
	Dims []int
	// Offset is where the data begins, counted from the start of the data
	// section. Create computes it.
	Offset int64
}

// Elements is the number of elements.
func (t Tensor) Elements() int {
	n := 1
	for _, d := range t.Dims {
		n *= d
	}
	return n
}

// Bytes is the size of the data without padding.
func (t Tensor) Bytes() int64 {
	i := types[t.Type]
	return int64(t.Elements()/i.block) * int64(i.bytes)
}

// check reports whether a file may hold such a tensor. After it Elements and
// Bytes are right.
func (t Tensor) check() error {
	if len(t.Name) > MaxName {
		return fmt.Errorf("name of %d bytes, want at most %d", len(t.Name), MaxName)
	}
	info, ok := types[t.Type]
	if !ok {
		return fmt.Errorf("unknown type %d", uint32(t.Type))
	}
	if len(t.Dims) > maxDims {
		return fmt.Errorf("%d dimensions, want at most %d", len(t.Dims), maxDims)
	}
	n := uint64(1)
	for i, d := range t.Dims {
		if d < 1 {
			return fmt.Errorf("dimension %d is %d, want at least 1", i, d)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > maxElements || lo > math.MaxInt {
			return fmt.Errorf("dimensions %v overflow", t.Dims)
		}
		n = lo
	}
	row := 1
	if len(t.Dims) > 0 {
		row = t.Dims[0]
	}
	if row%info.block != 0 {
		return fmt.Errorf("rows of %d elements are not a whole number of %s blocks of %d", row, info.name, info.block)
	}
	return nil
}

// maxElements keeps every size in bytes below 2^60.
const maxElements = 1 << 56
