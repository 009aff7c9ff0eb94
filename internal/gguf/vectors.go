package gguf

import (
	"math/bits"

	"github.com/golowbit/lowbit/internal/wire"
)

// The types whose blocks have indices of vectors of 8 values, or 4 in IQ3, in place of
// codes. They are read and not written.
const (
	IQ2_XXS Type = 16
	IQ2_XS  Type = 17
	IQ3_XXS Type = 18
	IQ1_S   Type = 19
	IQ3_S   Type = 21
	IQ2_S   Type = 22
	IQ1_M   Type = 29
)

// vectorTypes decode one block of 256 values. The layouts are those of the structures
// block_iq* in ggml-common.h, the order that of dequantize_row_iq* in ggml-quants.c. All
// products are exact in float32.
var vectorTypes = map[Type]func(dst []float32, b []byte){
	IQ1_S: decodeIQ1S, IQ1_M: decodeIQ1M,
	IQ2_XXS: decodeIQ2XXS, IQ2_XS: decodeIQ2XS, IQ2_S: decodeIQ2S,
	IQ3_XXS: decodeIQ3XXS, IQ3_S: decodeIQ3S,
}

// Vectors reports whether blocks of the type hold indices of vectors, and about how many
// bits a weight it has.
func (t Type) Vectors() (bits int, ok bool) {
	_, ok = vectorTypes[t]
	return max(2, t.BlockBytes()*8/SuperLen), ok
}

func (t Type) decodeVectors(dst []float32, src []byte) {
	decode, n := vectorTypes[t], t.BlockBytes()
	for ; len(dst) > 0; dst, src = dst[SuperLen:], src[n:] {
		decode(dst[:SuperLen], src[:n])
	}
}

// signed sets dst to a vector times scale, negated where signs has a bit.
func signed(dst, vector []float32, signs uint8, scale float32) {
	for i, v := range vector {
		if dst[i] = scale * v; signs>>i&1 == 1 {
			dst[i] = -dst[i]
		}
	}
}

// evenSigns completes 7 signs by one that makes their number even.
func evenSigns(v uint32) uint8 {
	s := uint8(v & 127)
	return s | uint8(bits.OnesCount8(s)&1)<<7
}

// nibble is the i-th of the half bytes of b, low ones first.
func nibble(b []byte, i int) uint8 { return b[i/2] >> (i % 2 * 4) & 15 }

// IQ2_XXS: d; for each 32 values 4 bytes of indices and 32 bits: four times 7 signs, and
// a scale in the highest 4.
func decodeIQ2XXS(dst []float32, b []byte) {
	grid, d := gridIQ2XXS(), wire.Half(le.Uint16(b))
	for i := range 32 {
		at := 2 + i/4*8
		word := le.Uint32(b[at+4:])
		v := int(b[at+i%4])
		signed(dst[8*i:], grid[8*v:8*v+8], evenSigns(word>>(i%4*7)), d*(0.5+float32(word>>28))*0.25)
	}
}

// IQ2_XS: d; 16 bits for each 8 values: an index of 9 bits and 7 signs; a scale of 4 bits
// for each 16.
func decodeIQ2XS(dst []float32, b []byte) {
	grid, d := gridIQ2XS(), wire.Half(le.Uint16(b))
	for i := range 32 {
		word := le.Uint16(b[2+2*i:])
		v := int(word & 511)
		signed(dst[8*i:], grid[8*v:8*v+8], evenSigns(uint32(word>>9)), d*(0.5+float32(nibble(b[66:], i/2)))*0.25)
	}
}

// IQ2_S: d; for each 8 values 8 bits of the index, 8 signs, 2 high bits of the index; a
// scale of 4 bits for each 16.
func decodeIQ2S(dst []float32, b []byte) {
	grid, d := gridIQ2S(), wire.Half(le.Uint16(b))
	for i := range 32 {
		v := int(b[2+i]) | int(b[66+i/4]>>(i%4*2)&3)<<8
		signed(dst[8*i:], grid[8*v:8*v+8], b[34+i], d*(0.5+float32(nibble(b[74:], i/2)))*0.25)
	}
}

// IQ3_XXS: d; an index of 8 bits for each 4 values; for each 32 values four times 7 signs,
// and a scale in the highest 4 bits.
func decodeIQ3XXS(dst []float32, b []byte) {
	grid, d := gridIQ3XXS(), wire.Half(le.Uint16(b))
	for i := range 64 {
		word := le.Uint32(b[66+i/8*4:])
		v := int(b[2+i])
		signed(dst[4*i:], grid[4*v:4*v+4], evenSigns(word>>(i%8/2*7))>>(i%2*4), d*(0.5+float32(word>>28))*0.5)
	}
}

// IQ3_S: d; for each 4 values 8 bits of the index and a ninth; 8 signs for each 8 values;
// a scale of 4 bits for each 32.
func decodeIQ3S(dst []float32, b []byte) {
	grid, d := gridIQ3S(), wire.Half(le.Uint16(b))
	for i := range 64 {
		v := int(b[2+i]) | int(b[66+i/8]>>(i%8)&1)<<8
		signed(dst[4*i:], grid[4*v:4*v+4], b[74+i/2]>>(i%2*4), d*float32(1+2*nibble(b[106:], i/8)))
	}
}

// shifted sets dst to a vector of -1, 0 and 1, all moved an eighth up or down, times scale.
func shifted(dst, vector []float32, down bool, scale float32) {
	by := float32(0.125)
	if down {
		by = -by
	}
	for i, v := range vector {
		dst[i] = scale * (v + by)
	}
}

// IQ1_S: d; 8 bits of the index for each 8 values; 16 bits for each 32: three more of each
// index, a scale of 3, and which way the values are moved.
func decodeIQ1S(dst []float32, b []byte) {
	grid, d := gridIQ1(), wire.Half(le.Uint16(b))
	for i := range 32 {
		word := le.Uint16(b[34+i/4*2:])
		v := int(b[2+i]) | int(word>>(i%4*3)&7)<<8
		shifted(dst[8*i:], grid[8*v:8*v+8], word>>15 == 1, d*float32(2*(word>>12&7)+1))
	}
}

// IQ1_M: 8 bits of the index for each 8 values; three more of it, and which way the values
// are moved; 16 bits for each 64: four scales of 3, each of 16 values, and 4 bits of d.
func decodeIQ1M(dst []float32, b []byte) {
	grid := gridIQ1()
	var half uint16
	for j := range 4 {
		half |= le.Uint16(b[48+2*j:]) >> 12 << (4 * j)
	}
	d := wire.Half(half)
	for i := range 32 {
		high := nibble(b[32:], i)
		v := int(b[i]) | int(high&7)<<8
		scale := le.Uint16(b[48+i/8*2:]) >> (i % 8 / 2 * 3) & 7
		shifted(dst[8*i:], grid[8*v:8*v+8], high>>3 == 1, d*float32(2*scale+1))
	}
}
