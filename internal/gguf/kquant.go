package gguf

import (
	"encoding/binary"

	"github.com/golowbit/lowbit/internal/wire"
)

// The types whose scales are quantized in turn, and those whose values are not
// evenly spaced.
const (
	Q2_K   Type = 10
	Q3_K   Type = 11
	Q4_K   Type = 12
	Q5_K   Type = 13
	Q6_K   Type = 14
	IQ4_NL Type = 20
	IQ4_XS Type = 23
)

// SuperLen is the number of values in a block whose groups have scales of
// their own.
const SuperLen = 256

// Levels are what the codes of IQ4_NL and IQ4_XS stand for, in steps of the
// scale (kvalues_iq4nl in ggml-common.h).
var Levels = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// Super is what a block of SuperLen values holds.
type Super struct {
	D, Min uint16    // half floats: what the scales and the minima are multiples of
	Scales [16]int8  // by group
	Mins   [16]uint8 // by group, of types that HasMin
	Codes  [SuperLen]uint8
}

// superType is how the values of a type follow from a Super:
// D*Scales[g]*(code - zero) - Min*Mins[g], or a level in place of code - zero.
type superType struct {
	bits, group  int
	zero         float32
	levels       bool
	pack, unpack func(b []byte, s *Super)
}

var superTypes = map[Type]superType{
	Q2_K:   {bits: 2, group: 16, pack: packQ2K, unpack: unpackQ2K},
	Q3_K:   {bits: 3, group: 16, zero: 4, pack: packQ3K, unpack: unpackQ3K},
	Q4_K:   {bits: 4, group: 32, pack: packQ4K, unpack: unpackQ4K},
	Q5_K:   {bits: 5, group: 32, pack: packQ5K, unpack: unpackQ5K},
	Q6_K:   {bits: 6, group: 16, zero: 32, pack: packQ6K, unpack: unpackQ6K},
	IQ4_XS: {bits: 4, group: 32, levels: true, pack: packIQ4XS, unpack: unpackIQ4XS},
}

// CodeBits is the width of the codes of every quantized type that Decode
// knows, 0 for other types.
func (t Type) CodeBits() int {
	if s, ok := superTypes[t]; ok {
		return s.bits
	}
	return t.Bits()
}

// Group is the number of neighbours that share a scale, 0 for other types.
func (t Type) Group() int {
	if s, ok := superTypes[t]; ok {
		return s.group
	}
	if t.Bits() > 0 {
		return BlockLen
	}
	return 0
}

// Super reports whether blocks of the type hold a Super.
func (t Type) Super() bool { _, ok := superTypes[t]; return ok }

// PackSuper writes one block of a type that is Super. Scales are -32 … 31 for
// Q3_K and IQ4_XS, -128 … 127 for Q6_K, 0 … 15 for Q2_K, 0 … 63 for Q4_K and
// Q5_K; minima go as far as scales; codes are below 2^CodeBits.
func (t Type) PackSuper(dst []byte, s *Super) {
	dst = dst[:t.BlockBytes()]
	clear(dst)
	superTypes[t].pack(dst, s)
}

// UnpackSuper reads what PackSuper wrote.
func (t Type) UnpackSuper(src []byte, s *Super) { superTypes[t].unpack(src[:t.BlockBytes()], s) }

// decodeSuper reads blocks of SuperLen. The products of scales and codes are
// exact in float32.
func (t Type) decodeSuper(dst []float32, src []byte) {
	var s Super
	kind, minima := superTypes[t], t.HasMin()
	for n := t.BlockBytes(); len(dst) > 0; dst, src = dst[SuperLen:], src[n:] {
		kind.unpack(src[:n], &s)
		d, m := wire.Half(s.D), float32(0)
		if minima {
			m = wire.Half(s.Min)
		}
		for g := range SuperLen / kind.group {
			scale, shift := d*float32(s.Scales[g]), m*float32(s.Mins[g])
			to, codes := dst[g*kind.group:][:kind.group], s.Codes[g*kind.group:][:kind.group]
			switch {
			case kind.levels:
				for i, v := range codes {
					to[i] = scale * Levels[v&15]
				}
			case minima:
				for i, v := range codes {
					to[i] = float32(scale*float32(v)) - shift
				}
			default:
				for i, v := range codes {
					to[i] = scale * (float32(v) - kind.zero)
				}
			}
		}
	}
}

// The layouts are those of the structures block_q2_K … block_iq4_xs in
// ggml-common.h; the order of the values is that of dequantize_row_* in
// ggml-quants.c.

var le = binary.LittleEndian

// bitsAt is where 2 bits of value i lie in the 64 bytes of Q2_K and Q3_K: a
// byte holds the values r, r+32, r+64 and r+96 of a half.
func bitsAt(i int) (at, shift int) { return i/128*32 + i%32, i % 128 / 32 * 2 }

// Q2_K: 16 bytes of scale and minimum (low and high 4 bits), 64 bytes of
// codes, d, dm.
func packQ2K(b []byte, s *Super) {
	for g := range 16 {
		b[g] = byte(s.Scales[g])&15 | s.Mins[g]<<4
	}
	for i, v := range s.Codes {
		at, shift := bitsAt(i)
		b[16+at] |= v << shift
	}
	le.PutUint16(b[80:], s.D)
	le.PutUint16(b[82:], s.Min)
}

func unpackQ2K(b []byte, s *Super) {
	for g := range 16 {
		s.Scales[g], s.Mins[g] = int8(b[g]&15), b[g]>>4
	}
	for i := range s.Codes {
		at, shift := bitsAt(i)
		s.Codes[i] = b[16+at] >> shift & 3
	}
	s.D, s.Min = le.Uint16(b[80:]), le.Uint16(b[82:])
}

// Q3_K: 32 bytes of the codes' high bits (bit k of byte j for value 32k+j),
// 64 bytes of the low two as in Q2_K, 12 bytes of 6-bit scales less 32, d.
func packQ3K(b []byte, s *Super) {
	for i, v := range s.Codes {
		at, shift := bitsAt(i)
		b[i%32] |= v >> 2 << (i / 32)
		b[32+at] |= v & 3 << shift
	}
	for g := range 16 {
		v := byte(s.Scales[g] + 32)
		b[96+g%8] |= v & 15 << (g / 8 * 4)
		b[104+g%4] |= v >> 4 << (g / 4 * 2)
	}
	le.PutUint16(b[108:], s.D)
}

func unpackQ3K(b []byte, s *Super) {
	for i := range s.Codes {
		at, shift := bitsAt(i)
		s.Codes[i] = b[32+at]>>shift&3 | b[i%32]>>(i/32)&1<<2
	}
	for g := range 16 {
		v := b[96+g%8]>>(g/8*4)&15 | b[104+g%4]>>(g/4*2)&3<<4
		s.Scales[g] = int8(v) - 32
	}
	s.D = le.Uint16(b[108:])
}

// packScales writes the 6-bit scales and minima of 8 groups to 12 bytes: 8
// times 6 low bits, whose top bits complete the 4-bit pairs of the rest.
func packScales(b []byte, s *Super) {
	for g := range 4 {
		b[g], b[g+4] = byte(s.Scales[g])&63|byte(s.Scales[g+4])>>4<<6, s.Mins[g]&63|s.Mins[g+4]>>4<<6
		b[g+8] = byte(s.Scales[g+4])&15 | s.Mins[g+4]<<4
	}
}

func unpackScales(b []byte, s *Super) {
	for g := range 4 {
		s.Scales[g], s.Mins[g] = int8(b[g]&63), b[g+4]&63
		s.Scales[g+4], s.Mins[g+4] = int8(b[g+8]&15|b[g]>>6<<4), b[g+8]>>4|b[g+4]>>6<<4
	}
}

// nibbleAt is where the low 4 bits of value i lie in Q4_K and Q5_K: 32 bytes
// for 64 values, low halves first.
func nibbleAt(i int) (at, shift int) { return i/64*32 + i%32, i % 64 / 32 * 4 }

// Q4_K: d, dm, 12 bytes of scales, 128 bytes of codes.
func packQ4K(b []byte, s *Super) {
	le.PutUint16(b, s.D)
	le.PutUint16(b[2:], s.Min)
	packScales(b[4:], s)
	for i, v := range s.Codes {
		at, shift := nibbleAt(i)
		b[16+at] |= v << shift
	}
}

func unpackQ4K(b []byte, s *Super) {
	s.D, s.Min = le.Uint16(b), le.Uint16(b[2:])
	unpackScales(b[4:], s)
	for i := range s.Codes {
		at, shift := nibbleAt(i)
		s.Codes[i] = b[16+at] >> shift & 15
	}
}

// Q5_K: Q4_K with 32 bytes of high bits before the codes: bit g of byte j for
// value 32g+j.
func packQ5K(b []byte, s *Super) {
	le.PutUint16(b, s.D)
	le.PutUint16(b[2:], s.Min)
	packScales(b[4:], s)
	for i, v := range s.Codes {
		at, shift := nibbleAt(i)
		b[16+i%32] |= v >> 4 << (i / 32)
		b[48+at] |= v & 15 << shift
	}
}

func unpackQ5K(b []byte, s *Super) {
	s.D, s.Min = le.Uint16(b), le.Uint16(b[2:])
	unpackScales(b[4:], s)
	for i := range s.Codes {
		at, shift := nibbleAt(i)
		s.Codes[i] = b[48+at]>>shift&15 | b[16+i%32]>>(i/32)&1<<4
	}
}

// Q6_K: 128 bytes of the codes' low 4 bits, 64 bytes of the high 2, 16 int8
// scales, d. Of a half, byte j of 32 high ones serves values j, j+32, j+64
// and j+96.
func packQ6K(b []byte, s *Super) {
	for i, v := range s.Codes {
		half, r := i/128, i%128
		b[64*half+r%64] |= v & 15 << (r / 64 * 4)
		b[128+32*half+r%32] |= v >> 4 << (r / 32 * 2)
	}
	for g, v := range s.Scales {
		b[192+g] = byte(v)
	}
	le.PutUint16(b[208:], s.D)
}

func unpackQ6K(b []byte, s *Super) {
	for i := range s.Codes {
		half, r := i/128, i%128
		s.Codes[i] = b[64*half+r%64]>>(r/64*4)&15 | b[128+32*half+r%32]>>(r/32*2)&3<<4
	}
	for g := range s.Scales {
		s.Scales[g] = int8(b[192+g])
	}
	s.D = le.Uint16(b[208:])
}

// IQ4_XS: d, 2 high bits of each 6-bit scale less 32, their low 4 bits, and for
// each group 16 bytes of codes: value j low, value j+16 high.
func packIQ4XS(b []byte, s *Super) {
	le.PutUint16(b, s.D)
	var high uint16
	for g := range 8 {
		v := byte(s.Scales[g] + 32)
		high |= uint16(v>>4) << (2 * g)
		b[4+g/2] |= v & 15 << (g % 2 * 4)
	}
	le.PutUint16(b[2:], high)
	for i, v := range s.Codes {
		b[8+i/32*16+i%16] |= v << (i % 32 / 16 * 4)
	}
}

func unpackIQ4XS(b []byte, s *Super) {
	s.D = le.Uint16(b)
	high := le.Uint16(b[2:])
	for g := range 8 {
		s.Scales[g] = int8(b[4+g/2]>>(g%2*4)&15|byte(high>>(2*g)&3)<<4) - 32
	}
	for i := range s.Codes {
		s.Codes[i] = b[8+i/32*16+i%16] >> (i % 32 / 16 * 4) & 15
	}
}
