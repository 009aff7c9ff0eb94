package gguf

import (
	"encoding/binary"

	"github.com/golowbit/lowbit/internal/wire"
)

// The types with blocks of 256 whose scales are quantized in turn. They are
// read, not written.
const (
	Q2_K Type = 10
	Q3_K Type = 11
	Q4_K Type = 12
	Q5_K Type = 13
	Q6_K Type = 14
)

const superBlock = 256

// CodeBits is the width of the codes of every quantized type that Decode
// knows, 0 for other types.
func (t Type) CodeBits() int {
	if t >= Q2_K && t <= Q6_K {
		return int(t) - int(Q2_K) + 2
	}
	return t.Bits()
}

// Group is the number of neighbours that share a scale, 0 for other types.
func (t Type) Group() int {
	switch t {
	case Q2_K, Q3_K, Q6_K:
		return 16
	case Q4_K, Q5_K:
		return 32
	}
	if t.Bits() > 0 {
		return BlockLen
	}
	return 0
}

// decodeSuper reads blocks of 256. d and the minimum dm are half floats, the
// 4- or 6-bit scale and minimum of a group are multiples of them. The
// products of scales and codes are exact in float32.
func (t Type) decodeSuper(dst []float32, src []byte) {
	decode := map[Type]func(*[superBlock]float32, []byte){
		Q2_K: decodeQ2K, Q3_K: decodeQ3K, Q4_K: decodeQ4K, Q5_K: decodeQ5K, Q6_K: decodeQ6K,
	}[t]
	for n := t.BlockBytes(); len(dst) > 0; dst, src = dst[superBlock:], src[n:] {
		decode((*[superBlock]float32)(dst), src[:n])
	}
}

func halfAt(b []byte) float32 {
	return wire.Half(binary.LittleEndian.Uint16(b))
}

// Q2_K: 16 bytes of scale and minimum (low and high 4 bits), 64 bytes of
// codes, d, dm. A byte of codes holds values i, i+32, i+64, i+96 of a half.
func decodeQ2K(y *[superBlock]float32, b []byte) {
	scales, q := b[:16], b[16:80]
	d, dm := halfAt(b[80:]), halfAt(b[82:])
	for i := range y {
		half, r := i/128, i%128
		s := scales[i/16]
		v := q[32*half+r%32] >> (r / 32 * 2) & 3
		y[i] = float32(d*float32(s&15)*float32(v)) - float32(dm*float32(s>>4))
	}
}

// Q3_K: 32 bytes of the codes' high bits (bit k of byte j for value 32k+j),
// 64 bytes of the low two as in Q2_K, 12 bytes of 6-bit scales, d.
func decodeQ3K(y *[superBlock]float32, b []byte) {
	high, q, s := b[:32], b[32:96], b[96:108]
	d := halfAt(b[108:])
	for i := range y {
		half, r, g := i/128, i%128, i/16
		scale := s[g%8] >> (g / 8 * 4) & 15
		scale |= s[8+g%4] >> (g / 4 * 2) & 3 << 4
		v := int(q[32*half+r%32]>>(r/32*2)&3) | int(high[i%32]>>(i/32)&1)<<2
		y[i] = d * float32(int(scale)-32) * float32(v-4)
	}
}

// superScale reads the 6-bit scale and minimum of group g of 8 from 12 bytes:
// 8 times 6 low bits, whose top bits complete the 4-bit pairs of the rest.
func superScale(s []byte, g int) (scale, minimum uint8) {
	if g < 4 {
		return s[g] & 63, s[g+4] & 63
	}
	return s[g+4]&15 | s[g-4]>>6<<4, s[g+4]>>4 | s[g]>>6<<4
}

// Q4_K: d, dm, 12 bytes of scales, 128 bytes of codes: 32 bytes for 64
// values, low halves first.
func decodeQ4K(y *[superBlock]float32, b []byte) {
	decode45(y, halfAt(b), halfAt(b[2:]), b[4:16], nil, b[16:])
}

// Q5_K: Q4_K with 32 bytes of high bits before the codes: bit g of byte j for
// value 32g+j.
func decodeQ5K(y *[superBlock]float32, b []byte) {
	decode45(y, halfAt(b), halfAt(b[2:]), b[4:16], b[16:48], b[48:])
}

func decode45(y *[superBlock]float32, d, dm float32, scales, high, q []byte) {
	for g := range superBlock / 32 {
		s, m := superScale(scales, g)
		scale, minimum := d*float32(s), dm*float32(m)
		for j := range 32 {
			v := q[g/2*32+j] >> (g % 2 * 4) & 15
			if high != nil {
				v |= high[j] >> g & 1 << 4
			}
			y[32*g+j] = float32(scale*float32(v)) - minimum
		}
	}
}

// Q6_K: 128 bytes of the codes' low 4 bits, 64 bytes of the high 2, 16 int8
// scales, d. Of a half, byte j of 32 high ones serves values j, j+32, j+64
// and j+96.
func decodeQ6K(y *[superBlock]float32, b []byte) {
	low, high, scales := b[:128], b[128:192], b[192:208]
	d := halfAt(b[208:])
	for i := range y {
		half, r := i/128, i%128
		v := low[64*half+r%64] >> (r / 64 * 4) & 15
		v |= high[32*half+r%32] >> (r / 32 * 2) & 3 << 4
		y[i] = d * float32(int8(scales[i/16])) * float32(int(v)-32)
	}
}
