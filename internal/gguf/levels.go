package gguf

import (
	"math"

	"github.com/golowbit/lowbit/internal/wire"
)

// The types whose codes stand for a few whole numbers, times one scale a group.
// They are read and not written.
const (
	TQ1_0 Type = 34
	TQ2_0 Type = 35
	MXFP4 Type = 39
	NVFP4 Type = 40
	Q1_0  Type = 41
	Q2_0  Type = 42
)

// leveled is how the values of a type follow from its blocks:
// scale of the group * levels[code].
type leveled struct {
	group  int
	levels []int8
	// bits and zero are those of the uniform grid that the levels lie on.
	bits, zero int
	scale      func(b []byte, group int) float32
	code       func(b []byte, i int) uint8
}

// halfAt is a scale that all of a block share.
func halfAt(at int) func([]byte, int) float32 {
	return func(b []byte, _ int) float32 { return wire.Half(le.Uint16(b[at:])) }
}

var (
	ternary = []int8{-1, 0, 1, 2} // 2 does not occur in what llama.cpp writes as TQ2_0
	// tiny are twice the values of a float with 2 bits of exponent and one of mantissa.
	tiny = []int8{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}
)

var leveledTypes = map[Type]leveled{
	TQ1_0: {group: 256, levels: ternary, bits: 2, zero: 2, scale: halfAt(52), code: codeTQ1},
	TQ2_0: {group: 256, levels: ternary, bits: 2, zero: 2, scale: halfAt(64), code: func(b []byte, i int) uint8 {
		at, shift := bitsAt(i)
		return b[at] >> shift & 3
	}},
	Q1_0:  {group: 128, levels: []int8{-1, 1}, bits: 2, zero: 2, scale: halfAt(0), code: func(b []byte, i int) uint8 { return b[2+i/8] >> (i % 8) & 1 }},
	Q2_0:  {group: 64, levels: ternary, bits: 2, zero: 1, scale: halfAt(0), code: func(b []byte, i int) uint8 { return b[2+i/4] >> (i % 4 * 2) & 3 }},
	MXFP4: {group: 32, levels: tiny, bits: 5, zero: 16, scale: scaleMX, code: func(b []byte, i int) uint8 { return b[1+i%16] >> (i / 16 * 4) & 15 }},
	NVFP4: {group: 16, levels: tiny, bits: 5, zero: 16, scale: scaleNV, code: func(b []byte, i int) uint8 { return b[4+i/16*8+i%8] >> (i % 16 / 8 * 4) & 15 }},
}

// codeTQ1 reads a digit of a byte that holds five in base 3, the first one in
// front: as a fraction of 256. The last 4 bytes hold four each.
func codeTQ1(b []byte, i int) uint8 {
	at, digit := i%32, i/32
	switch {
	case i >= 240:
		at, digit = 48+i%4, (i-240)/4
	case i >= 160:
		at, digit = 32+i%16, (i-160)/16
	}
	q := b[at]
	for range digit {
		q *= 3
	}
	return uint8(uint16(q) * 3 >> 8)
}

// scaleMX is a power of two, halved as levels are doubled.
func scaleMX(b []byte, _ int) float32 { return float32(math.Ldexp(1, int(b[0])-128)) }

// scaleNV is a float of 4 bits of exponent and 3 of mantissa without a sign,
// halved as levels are doubled.
func scaleNV(b []byte, group int) float32 {
	v := b[group]
	exponent, mantissa := int(v>>3&15), float64(v&7)
	switch {
	case v == 0x7f: // not a number
		return 0
	case exponent == 0:
		return float32(math.Ldexp(mantissa, -10))
	}
	return float32(math.Ldexp(8+mantissa, exponent-11))
}

// Whole tells whether the type's codes stand for whole numbers times one scale a
// group, and on which uniform grid they lie: the group size, and bits and
// zero-point of its codes.
func (t Type) Whole() (group, bits, zero int, ok bool) {
	l, ok := leveledTypes[t]
	return l.group, l.bits, l.zero, ok
}

// UnpackWhole reads one block of a type that is Whole: a level for every value
// and a scale for every group.
func (t Type) UnpackWhole(src []byte, levels []int8, scales []float32) {
	l := leveledTypes[t]
	for i := range levels {
		levels[i] = l.levels[l.code(src, i)]
	}
	for g := range scales {
		scales[g] = l.scale(src, g)
	}
}

// decodeWhole reads whole blocks. The products are exact.
func (t Type) decodeWhole(dst []float32, src []byte) {
	levels := make([]int8, t.Block())
	group := leveledTypes[t].group
	scales := make([]float32, len(levels)/group)
	for n := t.BlockBytes(); len(dst) > 0; dst, src = dst[len(levels):], src[n:] {
		t.UnpackWhole(src[:n], levels, scales)
		for i, v := range levels {
			dst[i] = float32(v) * scales[i/group]
		}
	}
}
