package wire

import (
	"encoding/binary"

	"github.com/golowbit/lowbit/internal/kernel"
)

// Floats8 widens floats of 8 bits, of so many bits of fraction: 3 (E4M3, whose values
// come out divided by 256) or 2 (E5M2). Both are half floats cut short. It is false where
// one is no number or, of E5M2, infinite: then dst is of no use. len(src) is len(dst).
func Floats8(dst []float32, src []byte, fraction int) bool {
	const (
		ones  = 0x0101010101010101
		lanes = 0x00FF00FF00FF00FF
		value = 0x007F007F007F007F
	)
	last, up := uint64(1), uint(7) // added to a NaN's low bits it reaches the sign
	if fraction == 2 {
		last, up = 4, 8
	}
	var buf [1024]uint16
	raw := bytesOf(buf[:])
	var bad uint64
	for len(dst) > 0 {
		n := min(len(buf), len(dst))
		part := src[:n]
		to := raw
		for len(part) > 0 {
			if len(part) < 8 {
				part = append(make([]byte, 0, 8), part...)[:8]
			}
			x := binary.LittleEndian.Uint64(part)
			bad |= x&(127*ones) + last*ones
			a, b := x&0xFFFFFFFF, x>>32
			a, b = (a|a<<16)&0x0000FFFF0000FFFF, (b|b<<16)&0x0000FFFF0000FFFF
			a, b = (a|a<<8)&lanes, (b|b<<8)&lanes
			pair := to[:16]
			binary.LittleEndian.PutUint64(pair, a&value<<(up&15)|(a&^value)<<8)
			binary.LittleEndian.PutUint64(pair[8:], b&value<<(up&15)|(b&^value)<<8)
			part, to = part[8:], to[16:]
		}
		swap(raw, 2)
		kernel.F16ToF32(dst[:n], buf[:n])
		dst, src = dst[n:], src[n:]
	}
	return bad&(128*ones) == 0
}
