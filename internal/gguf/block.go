package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/golowbit/lowbit/internal/kernel"
	"github.com/golowbit/lowbit/internal/lattice"
	"github.com/golowbit/lowbit/internal/wire"
)

// BlockLen is the number of values in a block of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
// and IQ4_NL.
const BlockLen = 32

// Bits is the width of the codes of a type with one scale a block, 0 for other
// types.
func (t Type) Bits() int {
	switch t {
	case Q4_0, Q4_1, IQ4_NL:
		return 4
	case Q5_0, Q5_1:
		return 5
	case Q8_0:
		return 8
	}
	return 0
}

// HasMin reports whether a block stores a minimum m beside the scale d: a
// code v is then v*d + m (v*d - m in a Super), and else (v - 2^(Bits-1))*d or,
// for IQ4_NL and IQ4_XS, Levels[v]*d.
func (t Type) HasMin() bool {
	switch t {
	case Q4_1, Q5_1, Q2_K, Q4_K, Q5_K:
		return true
	}
	return false
}

// PackBlock writes one block. codes are unsigned, below 2^Bits; d and m are
// half floats, m is used where HasMin.
//
// The layouts (ggml-common.h, dequantize_row_* in ggml-quants.c):
//
//	Q4_0  d u16            4 bits: value j in the low half of byte j, value
//	Q4_1  d u16, m u16     j+16 in the high half; IQ4_NL as Q4_0
//	Q5_0  d u16, h u32     4 bits as above; bit j of h is bit 4 of value j
//	Q5_1  d u16, m u16, h u32
//	Q8_0  d u16            int8: code-128
func (t Type) PackBlock(dst []byte, d, m uint16, codes *[BlockLen]uint8) {
	binary.LittleEndian.PutUint16(dst, d)
	dst = dst[2:t.BlockBytes()]
	if t == Q8_0 {
		for j, v := range codes {
			dst[j] = v ^ 0x80
		}
		return
	}
	if t.HasMin() {
		binary.LittleEndian.PutUint16(dst, m)
		dst = dst[2:]
	}
	if t.Bits() == 5 {
		var h uint32
		for j, v := range codes {
			h |= uint32(v>>4&1) << j
		}
		binary.LittleEndian.PutUint32(dst, h)
		dst = dst[4:]
	}
	for j := range BlockLen / 2 {
		dst[j] = codes[j]&15 | codes[j+BlockLen/2]<<4
	}
}

// UnpackBlock reads what PackBlock wrote; m is 0 for types without a minimum.
func (t Type) UnpackBlock(src []byte, codes *[BlockLen]uint8) (d, m uint16) {
	d = binary.LittleEndian.Uint16(src)
	src = src[2:t.BlockBytes()]
	if t == Q8_0 {
		for j := range codes {
			codes[j] = src[j] ^ 0x80
		}
		return d, 0
	}
	if t.HasMin() {
		m = binary.LittleEndian.Uint16(src)
		src = src[2:]
	}
	var h uint32
	if t.Bits() == 5 {
		h = binary.LittleEndian.Uint32(src)
		src = src[4:]
	}
	for j := range BlockLen / 2 {
		codes[j] = src[j]&15 | uint8(h>>j&1)<<4
		codes[j+BlockLen/2] = src[j]>>4 | uint8(h>>(j+BlockLen/2)&1)<<4
	}
	return d, m
}

// ReadableTypes lists the types that Decode knows, for messages.
const ReadableTypes = "F32, F16, BF16, Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ1_S to IQ4_XS, TQ1_0, TQ2_0, MXFP4 and NVFP4"

// Readable reports whether Decode knows the type.
func (t Type) Readable() bool {
	_, _, _, whole := t.Whole()
	_, vectors := t.Vectors()
	return t == F32 || t == F16 || t == BF16 || t.CodeBits() > 0 || whole || vectors
}

// Decode widens len(dst) values. src holds them; len(dst) is a whole number
// of blocks. The results are those of ggml's dequantize_row functions.
func (t Type) Decode(dst []float32, src []byte) error {
	switch {
	case t == F32:
		wire.Decode(dst, wire.F32, src)
	case t == F16:
		wire.Decode(dst, wire.F16, src)
	case t == BF16:
		wire.Decode(dst, wire.BF16, src)
	case t.Bits() > 0:
		t.decodeBlocks(dst, src)
	case t.Super():
		t.decodeSuper(dst, src)
	case leveledTypes[t].group > 0:
		t.decodeWhole(dst, src)
	case vectorTypes[t] != nil:
		t.decodeVectors(dst, src)
	default:
		return fmt.Errorf("values of type %v cannot be read here, only "+ReadableTypes, t)
	}
	return nil
}

func (t Type) decodeBlocks(dst []float32, src []byte) {
	var codes [BlockLen]uint8
	zero := float32(int(1) << (t.Bits() - 1))
	n := t.BlockBytes()
	for len(dst) > 0 {
		scale, minimum := t.UnpackBlock(src, &codes)
		d := wire.Half(scale)
		switch {
		case t == IQ4_NL:
			for j, v := range codes {
				dst[j] = d * Levels[v]
			}
		case t.HasMin():
			m := wire.Half(minimum)
			for j, v := range codes {
				// The product of a half float and 5 bits is exact.
				dst[j] = float32(float32(v)*d) + m
			}
		default:
			kernel.Dequant(dst[:BlockLen], codes[:], d, zero)
		}
		dst, src = dst[BlockLen:], src[n:]
	}
}

// Writable reports whether Encode knows the type.
func (t Type) Writable() bool { return t == F32 || t == F16 || t == BF16 || t == Q8_0 }

// ErrRange is wrapped by the error for a value that a type cannot hold.
var ErrRange = errors.New("does not fit")

// Encode rounds values to F32, F16 or BF16 (to nearest even), or quantizes
// them to Q8_0: scale max|v|/127 rounded to a half float, codes to nearest, or where values
// are those of a coarser type the scale on which they lie best.
// A finite value too large for the type is an error, and so are NaN and
// infinities in Q8_0.
func (t Type) Encode(dst []byte, src []float32) error {
	plain := map[Type]wire.Type{F32: wire.F32, F16: wire.F16, BF16: wire.BF16}
	if w, ok := plain[t]; ok {
		if i := wire.Encode(dst, w, src); i >= 0 {
			return fmt.Errorf("value %g %w %v", src[i], ErrRange, t)
		}
		return nil
	}
	if t == Q8_0 {
		return encodeQ8(dst, src)
	}
	return fmt.Errorf("values cannot be rounded to %v here", t)
}

// roundQ8 rounds the first values of src to a block with that scale, and returns the sum
// of squares of what they change by.
func roundQ8(codes *[BlockLen]uint8, src []float32, half uint16) (sum float64) {
	d := float64(wire.Half(half))
	for j, v := range src[:BlockLen] {
		q := 0.0
		if d != 0 {
			q = max(-127, min(127, math.RoundToEven(float64(v)/d)))
		}
		codes[j] = uint8(int(q) + 128)
		e := float64(v) - d*q
		sum += e * e
	}
	return sum
}

func encodeQ8(dst []byte, src []float32) error {
	var codes [BlockLen]uint8
	for len(src) > 0 {
		var most float32
		for _, v := range src[:BlockLen] {
			if v-v != 0 {
				return fmt.Errorf("value %g cannot be stored as Q8_0", v)
			}
			most = max(most, float32(math.Abs(float64(v))))
		}
		half, _ := wire.ToHalf(most / 127)
		if d := wire.Half(half); d-d != 0 {
			return fmt.Errorf("value %g %w Q8_0", most, ErrRange)
		}
		least := roundQ8(&codes, src, half)
		scales, n := lattice.Scales(src[:BlockLen], 127)
		for _, s := range scales[:n] {
			var other [BlockLen]uint8
			h, _ := wire.ToHalf(s)
			if e := roundQ8(&other, src, h); e < least {
				least, half, codes = e, h, other
			}
		}
		Q8_0.PackBlock(dst, half, 0, &codes)
		dst, src = dst[Q8_0.BlockBytes():], src[BlockLen:]
	}
	return nil
}
