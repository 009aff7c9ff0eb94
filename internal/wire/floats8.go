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
		for i := 0; i < n; i += 8 {
			var x uint64
			if i+8 <= n {
				x = binary.LittleEndian.Uint64(part[i:])
			} else {
				var end [8]byte
				copy(end[:], part[i:])
				x = binary.LittleEndian.Uint64(end[:])
			}
			bad |= x&(127*ones) + last*ones
			for k, a := range [2]uint64{x & 0xFFFFFFFF, x >> 32} {
				a = (a | a<<16) & 0x0000FFFF0000FFFF
				a = (a | a<<8) & lanes
				binary.LittleEndian.PutUint64(raw[2*i+8*k:], a&value<<up|(a&^value)<<8)
			}
		}
		swap(raw, 2)
		kernel.F16ToF32(dst[:n], buf[:n])
		dst, src = dst[n:], src[n:]
	}
	return bad&(128*ones) == 0
}
