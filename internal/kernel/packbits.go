package kernel

import "encoding/binary"

// PackBits writes codes as a dense little-endian bit stream: code i occupies
// the bits [i*bits, (i+1)*bits) of dst. bits is 1 to 8; higher bits of a code
// are dropped. The last word is filled up with zeros.
func PackBits(dst []uint32, codes []uint8, bits int) {
	checkBits(bits)
	dst = dst[:(len(codes)*bits+31)/32]
	n := packEights(dst, codes, bits)
	packBitsGo(dst[n*bits/32:], codes[n:], bits)
}

// UnpackBits reads n codes from a stream as PackBits writes it.
func UnpackBits(dst []uint8, words []uint32, bits, n int) {
	checkBits(bits)
	dst, words = dst[:n], words[:(n*bits+31)/32]
	done := unpackEights(dst, words, bits)
	unpackBitsGo(dst[done:], words[done*bits/32:], bits)
}

// packEights packs as many codes as it can, a multiple of 32, and returns
// their number.
func packEights(dst []uint32, codes []uint8, bits int) int {
	n := eights(len(codes), len(dst), bits)
	if n > 0 {
		packBitsBMI2(&dst[0], &codes[0], n, bits, (1<<bits-1)*0x0101010101010101)
	}
	return 8 * n
}

// unpackEights unpacks as many codes as it can, a multiple of 32.
func unpackEights(dst []uint8, words []uint32, bits int) int {
	n := eights(len(dst), len(words), bits)
	if n > 0 {
		unpackBitsBMI2(&dst[0], &words[0], n, bits, (1<<bits-1)*0x0101010101010101)
	}
	return 8 * n
}

// eights is how many times eight of n codes can be moved 8 bytes at a time
// without leaving the words, a multiple of 4.
func eights(n, words, bits int) int {
	if level < AVX2 || words < 2 {
		return 0
	}
	return min(n/8, (4*words-8)/bits+1) &^ 3
}

func packBitsGo(dst []uint32, codes []uint8, bits int) {
	b := uint(bits)
	var acc uint64
	var fill uint
	for len(codes) >= 8 {
		lo, hi := squeeze(binary.LittleEndian.Uint64(codes), b)
		codes = codes[8:]
		acc |= lo << fill
		if fill += 4 * b; fill >= 32 {
			dst[0] = uint32(acc)
			dst, acc, fill = dst[1:], acc>>32, fill-32
		}
		acc |= hi << fill
		if fill += 4 * b; fill >= 32 {
			dst[0] = uint32(acc)
			dst, acc, fill = dst[1:], acc>>32, fill-32
		}
	}
	for _, c := range codes {
		acc |= uint64(c&(1<<b-1)) << fill
		if fill += b; fill >= 32 {
			dst[0] = uint32(acc)
			dst, acc, fill = dst[1:], acc>>32, fill-32
		}
	}
	if fill > 0 {
		dst[0] = uint32(acc)
	}
}

func unpackBitsGo(dst []uint8, words []uint32, bits int) {
	b := uint(bits)
	var acc uint64
	var fill uint
	take := func(k uint) uint64 {
		if fill < k {
			acc |= uint64(words[0]) << fill
			words, fill = words[1:], fill+32
		}
		v := acc & (1<<k - 1)
		acc, fill = acc>>k, fill-k
		return v
	}
	for len(dst) >= 8 {
		lo := take(4 * b)
		hi := take(4 * b)
		binary.LittleEndian.PutUint64(dst, spread(lo, hi, b))
		dst = dst[8:]
	}
	for i := range dst {
		dst[i] = uint8(take(b))
	}
}

func checkBits(bits int) {
	if bits < 1 || bits > 8 {
		panic("kernel: codes have 1 to 8 bits")
	}
}

// squeeze packs the low b bits of the bytes 0-3 and 4-7 of x to 4b bits each.
func squeeze(x uint64, b uint) (lo, hi uint64) {
	x &= (1<<b - 1) * 0x0101010101010101
	x = x&0x00ff00ff00ff00ff | x>>(8-b)&(0x00ff00ff00ff00ff<<b)
	x = x&0x0000ffff0000ffff | x>>(16-2*b)&(0x0000ffff0000ffff<<(2*b))
	return x & 0xffffffff, x >> 32
}

// spread is the inverse of squeeze.
func spread(lo, hi uint64, b uint) uint64 {
	x := lo | hi<<32
	pair := uint64(1<<(2*b)-1) * 0x0000000100000001
	x = x&pair | x&(pair<<(2*b))<<(16-2*b)
	one := uint64(1<<b-1) * 0x0001000100010001
	return x&one | x&(one<<b)<<(8-b)
}
